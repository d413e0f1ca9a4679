/** A text classifier in ONNX, run by the @huggingface/transformers and onnxruntime-node that the user has installed.
 *  Neither is part of Koala (onnxruntime alone is over 200 MB): they are found beside the user's own files, or refused. */
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { categories, type Category, isCategory, letters } from "../../eval/moderation/categories.ts";
import { UsageError } from "../../util/errors.ts";
import type { Backend, Judgement } from "./backend.ts";

/** Jigsaw's labels, as toxic-bert and unbiased-toxic-roberta have them; profanity alone ("obscene") is no category. */
const jigsaw: Readonly<Record<string, readonly Category[]>> = {
  toxic: ["harassment"],
  toxicity: ["harassment"],
  severe_toxic: ["harassment"],
  severe_toxicity: ["harassment"],
  insult: ["harassment"],
  threat: ["harassment/threatening", "violence"],
  identity_hate: ["hate"],
  identity_attack: ["hate"],
  sexual_explicit: ["sexual"],
  hateful: ["hate"],
  nsfw: ["sexual"],
};

/** OpenAI's own names, the letters of its samples, or Jigsaw's labels. */
export function categoriesOf(label: string): readonly Category[] {
  const plain = label.trim();
  if (isCategory(plain.toLowerCase())) return [plain.toLowerCase() as Category];
  if (Object.hasOwn(letters, plain)) return [letters[plain as keyof typeof letters]];
  return jigsaw[plain.toLowerCase().replaceAll(/[ -]/g, "_")] ?? [];
}

type Classify = (texts: string[], options: { top_k: null }) => Promise<{ label: string; score: number }[][]>;
interface Transformers {
  env: { allowRemoteModels: boolean; localModelPath: string };
  pipeline(
    task: string,
    model: string,
    options: object,
  ): Promise<Classify & { dispose?(): Promise<unknown> }>;
}

/** `modules`: the folder from which the packages are looked for, as Node would. */
export async function onnxBackend(folder: string, modules: string): Promise<Backend> {
  const known = labelsOf(folder);
  const transformers = await findTransformers(resolve(modules));
  transformers.env.allowRemoteModels = false;
  transformers.env.localModelPath = dirname(resolve(folder));
  const dtype = existsSync(join(folder, "onnx", "model_quantized.onnx")) ? "q8" : "fp32";
  const classify = await transformers
    .pipeline("text-classification", basename(resolve(folder)), { dtype })
    .catch((error: unknown) => {
      throw new UsageError(`The ONNX classifier in ${folder} cannot be loaded: ${(error as Error).message}`);
    });
  return {
    name: "onnx",
    categories: known,
    charsMax: 1500,
    judge: async (texts) => {
      const judgements: Judgement[] = [];
      // One at a time: padding to the longest costs more than it saves.
      for (const text of texts) judgements.push(judgementOf((await classify([text], { top_k: null }))[0]!));
      return judgements;
    },
    close: async () => void (await classify.dispose?.()),
  };
}

export function judgementOf(labels: readonly { label: string; score: number }[]): Judgement {
  const scores = new Map<Category, number>();
  for (const { label, score } of labels)
    for (const category of categoriesOf(label))
      scores.set(category, Math.max(score, scores.get(category) ?? 0));
  return { scores, flagged: new Set() };
}

/** From config.json, so that a model of other labels is refused when the server starts. */
function labelsOf(folder: string): Category[] {
  const path = join(folder, "config.json");
  let names: string[];
  try {
    names = Object.values(JSON.parse(readFileSync(path, "utf8")).id2label ?? {}) as string[];
  } catch (error) {
    throw new UsageError(
      `--moderation onnx:${folder} needs a readable ${path}: ${(error as Error).message}.`,
    );
  }
  const known = categories.filter((category) => names.some((name) => categoriesOf(name).includes(category)));
  if (known.length > 0) return known;
  throw new UsageError(
    `The classifier in ${folder} has the labels ${names.slice(0, 10).join(", ") || "(none)"}, and none of them means a moderation category.`,
  );
}

/** Looked for by hand: inside the executable Bun resolves packages of the disk only in part. */
async function findTransformers(from: string): Promise<Transformers> {
  const library = findPackage("@huggingface/transformers", from);
  // What transformers itself will load: the package beside it, not another one.
  const runtime = library === null ? null : findPackage("onnxruntime-node", library);
  if (library === null || runtime === null || isStub(runtime))
    throw new UsageError(
      `--moderation onnx needs the npm packages @huggingface/transformers and onnxruntime-node; run "npm install @huggingface/transformers onnxruntime-node" in ${from}, or name the folder that has them by --moderation-modules.`,
    );
  try {
    return (await import(join(library, "dist", "transformers.node.mjs"))) as Transformers;
  } catch (error) {
    throw new UsageError(`${library} cannot be loaded: ${(error as Error).message.replace(/\.$/, "")}.`);
  }
}

/** As Node looks for it: node_modules of this folder and of those above. Packages may be links. */
function findPackage(name: string, from: string): string | null {
  for (let folder = from; ; folder = dirname(folder)) {
    const place = join(folder, "node_modules", name);
    if (existsSync(join(place, "package.json"))) return realpathSync(place);
    if (folder === dirname(folder)) return null;
  }
}

/** Koala's own source tree has a stand-in without the runtime, to keep the executable small. */
const isStub = (folder: string): boolean =>
  (JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version?: string }).version ===
  "99.0.0";
