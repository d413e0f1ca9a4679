/** A model with everything around it: tokenizer, template, engine process, and the API that speaks for it.
 *  `serve` puts that API on a port; `chat` and `generate` call it inside the process. */
import { basename, join, resolve } from "node:path";
import { startEngine } from "../engine/engine.ts";
import type { Engine } from "../engine/messages.ts";
import type { GenerationDefaults, ServedModel } from "../server/context.ts";
import { readConfig } from "../model/config.ts";
import { servingTemplate } from "../text/model_record.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { UsageError } from "../util/errors.ts";
import { Progress } from "../util/progress.ts";
import { selfCommand } from "../util/self_command.ts";
import { type ModelFlags, resolveModel, runnerOptions } from "./model_options.ts";

export interface ServedModelFlags extends ModelFlags {
  servedModelName?: string;
  chatTemplate?: string;
  maxQueue?: number;
}

/** What a model that was made here is, where its folder does not say. */
export interface ServedAs {
  id?: string;
  parent?: string;
  /** Unix seconds. */
  created?: number;
  /** What stands between the server and the engine process. */
  engine?: (start: () => Engine) => Engine;
}

/** Everything but the weights is loaded when this returns; `model.engine.ready()` says when they are. */
export async function openServedModel(
  name: string,
  flags: ServedModelFlags,
  as: ServedAs = {},
): Promise<ServedModel> {
  if (flags.servedModelName === "")
    throw new UsageError("--served-model-name is empty; name the model or leave it out.");
  const directory = await resolveModel(name);
  const config = await readConfig(directory);
  const options = runnerOptions(resolve(directory), flags);
  const tokenizer = await loadTokenizer(directory);
  const template = await servingTemplate(directory, tokenizer, flags.chatTemplate);
  const generationDefaults = await readGenerationDefaults(directory);
  checkVocabulary(tokenizer, config.vocabularySize, directory);
  const start = () => startModelEngine(JSON.stringify(options), flags);
  const engine = as.engine === undefined ? start() : as.engine(start);
  return {
    id: as.id ?? flags.servedModelName ?? modelId(name, directory),
    aliases: [],
    engine,
    tokenizer,
    template,
    toolFormat: template?.toolFormat ?? null,
    created: as.created ?? Math.floor(Date.now() / 1000),
    parent: as.parent ?? null,
    generationDefaults,
    // The cache may hold less than the model was made for: the engine has the last word.
    get maxModelLen() {
      return engine.info?.maxModelLen ?? flags.maxModelLen ?? config.maxPositions;
    },
    path: directory,
  };
}

/** Tells about restarts on stderr; `ready()` rejects when the model cannot be loaded. */
function startModelEngine(options: string, flags: ServedModelFlags): Engine {
  const progress = new Progress("bytes");
  const engine = startEngine({
    command: selfCommand("engine", options),
    onProgress: (stage, done, total) => progress.update(stage, done, total),
    // A first load that fails is told to whoever waits for ready(), once.
    onNotice: (sentence) => {
      if (engine.info !== null) process.stderr.write(`koala: ${sentence}\n`);
    },
    ...(flags.maxQueue === undefined ? {} : { maxWaitingRequests: flags.maxQueue }),
  });
  // Whoever waits for ready() sees the failure; without a waiter it must not end the process.
  engine.ready().catch(() => {});
  return engine;
}

/** Words beyond the embedding mean that the two do not belong together. Added tokens there are common (a [PAD] that was
 *  never trained): requests that write one are refused. */
function checkVocabulary(tokenizer: Tokenizer, size: number, directory: string): void {
  for (let id = size; id < tokenizer.vocabularySize; id++) {
    const token = tokenizer.tokenString(id);
    if (token === "" || tokenizer.isSpecial(id)) continue;
    throw new UsageError(
      `${directory}: tokenizer.json gives ${JSON.stringify(token)} the id ${id}, but config.json's vocab_size is ${size}; they do not belong together.`,
    );
  }
}

/** A hub name is itself; a folder is known by its own name. */
function modelId(name: string, directory: string): string {
  return resolve(name) === resolve(directory) ? basename(resolve(directory)) : name;
}

async function readGenerationDefaults(directory: string): Promise<GenerationDefaults> {
  const path = join(directory, "generation_config.json");
  const file = Bun.file(path);
  if (!(await file.exists())) return {};
  let json: Record<string, unknown>;
  try {
    json = (await file.json()) as Record<string, unknown>;
  } catch (error) {
    throw new UsageError(`${path} is not JSON: ${(error as Error).message}.`);
  }
  if (typeof json !== "object" || json === null) throw new UsageError(`${path} is not a JSON object.`);
  const defaults: GenerationDefaults = {};
  for (const { name, field, min, max } of generationFields) {
    const value = json[name];
    if (value === undefined || value === null) continue;
    if (typeof value !== "number" || !(value >= min && value <= max))
      throw new UsageError(
        `${path}: ${name} is ${JSON.stringify(value)}, expected a number from ${min} to ${max}.`,
      );
    defaults[field] = value;
  }
  return defaults;
}

const generationFields: { name: string; field: keyof GenerationDefaults; min: number; max: number }[] = [
  { name: "temperature", field: "temperature", min: 0, max: 100 },
  { name: "top_k", field: "topK", min: -1, max: 2 ** 31 - 1 },
  { name: "top_p", field: "topP", min: 0, max: 1 },
  { name: "min_p", field: "minP", min: 0, max: 1 },
  { name: "repetition_penalty", field: "repetitionPenalty", min: 0.001, max: 100 },
];
