/** Judges for tests: one that flags a word, one that fails, one that never answers. */
import type { Category } from "../../../src/eval/moderation/categories.ts";
import type { Backend } from "../../../src/server/moderation/backend.ts";

export const wordBackend = (word: string, category: Category = "violence", seen: string[] = []): Backend => ({
  name: "word",
  categories: [category],
  charsMax: 100_000,
  judge: async (texts) => {
    seen.push(...texts);
    return texts.map((text) => ({
      scores: new Map([[category, text.includes(word) ? 0.9 : 0.1]]),
      flagged: new Set<Category>(),
    }));
  },
});

export const failingBackend: Backend = {
  name: "broken",
  categories: [],
  charsMax: 100_000,
  judge: async () => {
    throw new Error("out of order");
  },
};

export const silentBackend: Backend = {
  name: "silent",
  categories: [],
  charsMax: 100_000,
  judge: () => new Promise(() => {}),
};
