/** The built-in linear classifier as a back end of the chain. */
import { LinearModel } from "../../eval/moderation/linear_model.ts";
import type { Backend } from "./backend.ts";

export function linearBackend(model: LinearModel = LinearModel.builtin()): Backend {
  return {
    name: "linear",
    categories: model.categories,
    // About what it was trained on: in longer texts one bad sentence drowns.
    charsMax: 1200,
    judge: async (texts) => texts.map((text) => ({ scores: model.score(text), flagged: new Set() })),
  };
}
