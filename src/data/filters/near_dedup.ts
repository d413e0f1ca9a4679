/** Near-duplicate removal: MinHash over word n-grams, LSH and union-find; of each cluster the longest dialogue stays.
 *  Always: clusters are transitive; memory is about 24 bytes a band and an id a dialogue (0.4 KiB at 14 bands), no texts. */
import { z } from "zod";
import { assert } from "../../util/errors.ts";
import { type Dialogue, userTurns } from "../dialogue.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { MinHash } from "./minhash.ts";
import { allText, textLength } from "./texts.ts";

export const nearDedupOptions = z.strictObject({
  rule: z.literal("near_dedup"),
  /** Which text is compared. */
  text: z.enum(["first-query", "all-queries", "dialogue"]).default("dialogue"),
  bands: z.int().min(1).max(256).default(14),
  rows: z.int().min(1).max(64).default(8),
  /** Words of an n-gram. */
  ngram: z.int().min(1).max(50).default(5),
  /** Of the hash functions; the recipe's own by default. */
  seed: z.int().min(0).optional(),
});

type Options = z.output<typeof nearDedupOptions>;

export class NearDedup implements Filter {
  readonly name = "near_dedup";
  private readonly minHash: MinHash;
  private readonly ids: string[] = [];
  private readonly lengths: number[] = [];
  /** The longest dialogue of each cluster, by the cluster's root. */
  private readonly longest = new Map<number, number>();
  private applied = 0;

  constructor(
    private readonly options: Options,
    seed: number,
  ) {
    this.minHash = new MinHash({ ...options, seed: options.seed ?? seed });
  }

  async prepare(dialogues: AsyncIterable<Dialogue>): Promise<void> {
    for await (const dialogue of dialogues) {
      this.minHash.add(comparedText(dialogue, this.options.text));
      this.ids.push(dialogue.id);
      this.lengths.push(textLength(dialogue));
    }
    for (let i = 0; i < this.ids.length; i++) {
      const root = this.minHash.root(i);
      const best = this.longest.get(root);
      if (best === undefined || this.lengths[i]! > this.lengths[best]!) this.longest.set(root, i);
    }
  }

  apply(dialogue: Dialogue): Outcome {
    const number = this.applied++;
    assert(this.ids[number] === dialogue.id, "near_dedup applies in the order it was prepared in");
    const best = this.longest.get(this.minHash.root(number))!;
    if (best === number) return kept(dialogue);
    return dropped("nearly the same as a dialogue that is kept", `kept: ${this.ids[best]!}`);
  }

  report(): unknown {
    const { bands, rows, ngram, text } = this.options;
    return { bands, rows, ngram, text, halfAtSimilarity: (1 - 0.5 ** (1 / bands)) ** (1 / rows) };
  }
}

function comparedText(dialogue: Dialogue, text: Options["text"]): string {
  if (text === "dialogue") return allText(dialogue);
  const turns = userTurns(dialogue);
  return text === "first-query" ? (turns[0] ?? "") : turns.join("\n");
}
