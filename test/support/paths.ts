/** Where the models of the tests lie. */
import { existsSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");

/** Decoder families with goldens of PyTorch and transformers (test/golden/reference/make_reference.py wrote them). */
export const families = [
  "llama-mha",
  "llama-gqa-rope3",
  "mistral-swa",
  "qwen2-bias",
  "qwen3-qknorm",
] as const;
export const familyDirectory = (family: string): string => join(root, "test", "golden", "reference", family);

/** Real models and data beside the checkout; tests that need them skip where they are absent. */
export const sharedDirectory = join(root, "..", "shared");
export const stories = join(sharedDirectory, "models", "stories260K");
export const hasStories = existsSync(join(stories, "model.safetensors"));
export const withoutShared = "needs ../shared, which is not part of the project";
