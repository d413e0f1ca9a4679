/** A filter that only looks at the dialogues of some sources; others pass untouched. */
import type { Dialogue } from "../dialogue.ts";
import { kept, type Filter } from "./filter.ts";

export function limitedTo(filter: Filter, sources: readonly string[] | null): Filter {
  if (sources === null) return filter;
  const names = new Set(sources);
  const concerns = ({ source }: Dialogue): boolean => names.has(source);
  const limited: Filter = {
    name: filter.name,
    apply: (dialogue) => (concerns(dialogue) ? filter.apply(dialogue) : kept(dialogue)),
  };
  if (filter.report) limited.report = () => filter.report!();
  if (filter.prepare)
    limited.prepare = async (dialogues) => {
      async function* own(): AsyncGenerator<Dialogue> {
        for await (const dialogue of dialogues) if (concerns(dialogue)) yield dialogue;
      }
      await filter.prepare!(own());
    };
  return limited;
}
