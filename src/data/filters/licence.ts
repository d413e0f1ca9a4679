/** Keeps or drops dialogues by the licence of their source, and counts the licences that were kept.
 *  Always: names are compared without case; a licence on both lists is an error of the recipe. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";

export const licenceOptions = z
  .strictObject({
    rule: z.literal("licence"),
    /** Only these; all where absent. */
    allow: z.array(z.string().min(1)).min(1).optional(),
    deny: z.array(z.string().min(1)).default([]),
    /** Dialogues whose source states no licence. */
    unknown: z.enum(["keep", "drop"]).default("keep"),
  })
  .refine(({ allow = [], deny }) => !allow.some((name) => lowered(deny).has(name.toLowerCase())), {
    message: "a licence stands on both allow and deny",
  });

const lowered = (names: readonly string[]): Set<string> => new Set(names.map((name) => name.toLowerCase()));

export class Licence implements Filter {
  readonly name = "licence";
  private readonly allowed: Set<string> | null;
  private readonly denied: Set<string>;
  private readonly counts = new Map<string, number>();

  constructor(private readonly options: z.output<typeof licenceOptions>) {
    this.allowed = options.allow ? lowered(options.allow) : null;
    this.denied = lowered(options.deny);
  }

  apply(dialogue: Dialogue): Outcome {
    const { licence } = dialogue;
    if (licence === null && this.options.unknown === "drop") return dropped("the source states no licence");
    const name = licence?.toLowerCase();
    if (name !== undefined && this.denied.has(name)) return dropped(`the licence is denied: ${licence}`);
    if (name !== undefined && this.allowed && !this.allowed.has(name))
      return dropped(`the licence is not on the list of allowed ones: ${licence}`);
    const key = licence ?? "none stated";
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
    return kept(dialogue);
  }

  report(): unknown {
    return { kept: Object.fromEntries(this.counts) };
  }
}
