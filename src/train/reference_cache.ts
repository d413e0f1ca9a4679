/** DPO's reference scores on disk, beside the run: a resumed run does not score the data again.
 *  Always: scores are used only for the data, base, precision and type of activations that they were made with. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Dataset } from "../data/shard.ts";
import { writeDurably } from "./checkpoint/durable.ts";
import type { Recipe } from "./recipe.ts";
import { activationsOf } from "./run_options.ts";

export class ReferenceCache {
  private readonly path: string;
  private readonly key: string;

  constructor(
    recipe: Recipe,
    private readonly dataset: Dataset,
  ) {
    const { model, precision, seed, output } = recipe;
    const random = model.init === "random" ? seed : null;
    this.path = join(output, "reference.json");
    this.key = JSON.stringify([dataset.hash, model, precision, random, ...halfActivations(recipe)]);
  }

  /** One score a document; null where there are none that fit. */
  read(): Float64Array | null {
    if (!existsSync(this.path)) return null;
    try {
      const { key, scores } = JSON.parse(readFileSync(this.path, "utf8")) as {
        key: string;
        scores: number[];
      };
      return key === this.key && scores.length === this.dataset.documents ? Float64Array.from(scores) : null;
    } catch {
      return null; // not ours or half of it: scored again
    }
  }

  write(scores: Float64Array): void {
    mkdirSync(join(this.path, ".."), { recursive: true });
    writeDurably(this.path, JSON.stringify({ key: this.key, scores: Array.from(scores) }));
  }
}

/** Nothing for float32, so that scores of before there was a choice stay good. */
const halfActivations = (recipe: Recipe): string[] =>
  activationsOf(recipe) === "float32" ? [] : [activationsOf(recipe)];
