/** The records that went no further, on disk: written by stages, found again and explained by `koala data why`.
 *  Always: a file of drops is called `dropped.jsonl`, alone or with something and a dot or dash before it. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { UsageError } from "../../util/errors.ts";
import type { Drop } from "../dialogue.ts";
import { textLines } from "../json_lines.ts";

export interface FoundDrops {
  drops: Drop[];
  /** How many there are; `drops` holds the first of them. */
  total: number;
}

/** Drops of all stages below `directory`: the one with this id, else those whose id begins or ends with it (the pieces of a
 *  split dialogue, or `file:line` alone), else those in which the words stand, in any case. */
export async function findDrops(directory: string, idOrWord: string, limit = 20): Promise<FoundDrops> {
  const files = await dropFiles(directory);
  if (files.length === 0)
    throw new UsageError(
      `There is no dropped.jsonl below ${directory}; name the folder of a study or a stage.`,
    );
  const tiers = [exactId, partOfId, anyWord].map((matches) => ({
    matches,
    found: { drops: [], total: 0 } as FoundDrops,
  }));
  const wanted = idOrWord.toLowerCase();
  for (const file of files)
    for await (const drop of readDrops(file)) {
      const tier = tiers.find(({ matches }) => matches(drop, wanted));
      if (!tier) continue;
      tier.found.total++;
      if (tier.found.drops.length < limit) tier.found.drops.push(drop);
    }
  return tiers.find(({ found }) => found.total > 0)?.found ?? { drops: [], total: 0 };
}

/** A drop as sentences. */
export function whyText(drop: Drop): string {
  const rule =
    drop.rule === "parse"
      ? "could not be read as a dialogue"
      : `was dropped by the filter ${drop.rule.replaceAll("_", " ")}`;
  const detail = drop.detail === null ? "" : `\n  ${drop.detail}`;
  const excerpt = drop.excerpt.replace(/\s+/g, " ").trim();
  return `${drop.id} ${rule}: ${drop.reason}.${detail}${excerpt === "" ? "" : `\n  It begins: ${excerpt}`}`;
}

export async function* readDrops(path: string): AsyncGenerator<Drop> {
  let number = 0;
  for await (const line of textLines(path)) {
    number++;
    if (line === "") continue;
    try {
      yield JSON.parse(line) as Drop;
    } catch {
      throw new UsageError(
        `${path} line ${number} is no dropped record; was the file cut off? Run the stage again.`,
      );
    }
  }
}

async function dropFiles(directory: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(directory, { recursive: true });
  } catch {
    throw new UsageError(`There is no folder ${directory}.`);
  }
  return names
    .filter((name) => /(?:^|[/\\.-])dropped\.jsonl$/.test(name))
    .toSorted()
    .map((name) => join(directory, name));
}

const exactId = (drop: Drop, wanted: string): boolean => drop.id.toLowerCase() === wanted;

const partOfId = (drop: Drop, wanted: string): boolean => {
  const id = drop.id.toLowerCase();
  return id.startsWith(`${wanted}#`) || id.endsWith(`/${wanted}`) || id.split("#")[0]!.endsWith(`/${wanted}`);
};

/** A number is whole: line 3 is not in line 36. */
const anyWord = (drop: Drop, wanted: string): boolean =>
  [drop.id, drop.rule, drop.reason, drop.detail ?? "", drop.excerpt].some((text) => {
    const found = text.toLowerCase();
    for (let at = found.indexOf(wanted); at >= 0; at = found.indexOf(wanted, at + 1))
      if (!(/\d$/.test(wanted) && /\d/.test(found[at + wanted.length] ?? ""))) return true;
    return false;
  });
