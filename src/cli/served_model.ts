/** A model with everything around it: tokenizer, template, engine process, and the API that speaks for it.
 *  `serve` puts that API on a port; `chat` and `generate` call it inside the process. */
import { basename, join, resolve } from "node:path";
import { startEngine } from "../engine/engine.ts";
import { readConfig } from "../engine/load_runner.ts";
import type { Engine } from "../engine/messages.ts";
import type { GenerationDefaults, ServedModel } from "../server/context.ts";
import { loadTemplate, namedTemplate } from "../text/template.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { UsageError } from "../util/errors.ts";
import { Progress } from "../util/progress.ts";
import { selfCommand } from "../util/self_command.ts";
import { type ModelFlags, resolveModel, runnerOptions } from "./model_options.ts";

export interface ServedModelFlags extends ModelFlags {
  servedModelName?: string;
  chatTemplate?: string;
  maxQueue?: number;
}

/** Everything but the weights is loaded when this returns; `model.engine.ready()` says when they are. */
export async function openServedModel(name: string, flags: ServedModelFlags): Promise<ServedModel> {
  const directory = await resolveModel(name);
  const config = await readConfig(directory);
  const options = runnerOptions(resolve(directory), flags);
  const tokenizer = await loadTokenizer(directory);
  const template = flags.chatTemplate
    ? await namedTemplate(flags.chatTemplate, tokenizer)
    : await loadTemplate(directory, tokenizer);
  const generationDefaults = await readGenerationDefaults(directory);
  const engine = startModelEngine(JSON.stringify(options), flags);
  return {
    id: flags.servedModelName ?? modelId(name, directory),
    aliases: [],
    engine,
    tokenizer,
    template,
    toolFormat: template?.toolFormat ?? null,
    created: Math.floor(Date.now() / 1000),
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
    onNotice: (sentence) => process.stderr.write(`koala: ${sentence}\n`),
    ...(flags.maxQueue === undefined ? {} : { maxWaitingRequests: flags.maxQueue }),
  });
  // Whoever waits for ready() sees the failure; without a waiter it must not end the process.
  engine.ready().catch(() => {});
  return engine;
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
  const defaults: GenerationDefaults = {};
  const names = {
    temperature: "temperature",
    top_k: "topK",
    top_p: "topP",
    min_p: "minP",
    repetition_penalty: "repetitionPenalty",
  } as const;
  for (const [name, field] of Object.entries(names) as [
    keyof typeof names,
    (typeof names)[keyof typeof names],
  ][]) {
    const value = json[name];
    if (value === undefined || value === null) continue;
    if (typeof value !== "number" || !(value >= 0))
      throw new UsageError(`${path}: ${name} is ${JSON.stringify(value)}, expected a number of 0 or more.`);
    defaults[field] = value;
  }
  return defaults;
}
