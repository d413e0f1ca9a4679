/** What every route is given: the models, the limits, the keys and the life of this server.
 *  Models may be added and removed while the server runs; a request keeps the model it started with. */

import type { Engine } from "../engine/messages.ts";
import type { ChatTemplate } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { ToolFormat } from "../text/tool_calls.ts";
import { RequestError } from "../util/errors.ts";
import type { KeyAccess } from "./auth.ts";
import type { FineTuning } from "./fine_tuning.ts";
import type { Store } from "../store/store.ts";
import { Lifecycle } from "./lifecycle.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { Metrics } from "./metrics.ts";
import type { ServerModeration } from "./moderation/moderated_call.ts";

/** From generation_config.json: what holds unless the request says otherwise. */
export interface GenerationDefaults {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
}

export interface ServedModel {
  id: string;
  aliases: readonly string[];
  engine: Engine;
  tokenizer: Tokenizer;
  /** null: the model has no chat template and /v1/chat/completions refuses it. */
  template: ChatTemplate | null;
  /** How the model writes tool calls; null: it has no such convention. */
  toolFormat: ToolFormat | null;
  /** Unix seconds. */
  created: number;
  generationDefaults: GenerationDefaults;
  /** Prompt and answer together. */
  maxModelLen: number;
  /** The model that it was tuned from; null or absent for one that this server did not make. */
  parent?: string | null;
  /** It runs in its parent's engine: what the engine counts is told once, under the parent's name. */
  sharesEngine?: boolean;
  /** What people should know before they believe it; shown by /v1/models and the chat page. */
  description?: string | null;
  /** Where it was loaded from; never shown to clients. */
  path: string;
}

/** The served models in the order they were added; the first is the default one. */
export class ModelRegistry {
  #models: ServedModel[] = [];

  constructor(models: readonly ServedModel[] = []) {
    for (const model of models) this.add(model);
  }

  add(model: ServedModel): void {
    const taken = [model.id, ...model.aliases].find((name) => this.#byName(name) !== undefined);
    if (taken !== undefined) throw new Error(`A model named ${JSON.stringify(taken)} is already served.`);
    this.#models.push(model);
  }

  /** Requests in flight keep the model they hold; stopping its engine is the caller's business. */
  remove(id: string): ServedModel | null {
    const index = this.#models.findIndex((model) => model.id === id);
    return index < 0 ? null : (this.#models.splice(index, 1)[0] ?? null);
  }

  list(): readonly ServedModel[] {
    return this.#models;
  }

  /** The named model, the first one where no name is given. */
  find(name: string | null | undefined): ServedModel {
    const model = name === null || name === undefined ? this.#models[0] : this.#byName(name);
    if (model !== undefined) return model;
    const served = this.#models.map((one) => one.id).join(", ") || "none";
    throw new RequestError(
      name === null || name === undefined
        ? "No model is served at the moment."
        : `The model ${JSON.stringify(name.slice(0, 200))} does not exist here. Served models: ${served}.`,
      { status: 404, param: "model", code: "model_not_found" },
    );
  }

  #byName(name: string): ServedModel | undefined {
    return this.#models.find((model) => model.id === name || model.aliases.includes(name));
  }
}

/** A file of the web page, ready to send. */
export interface Page {
  body: string | Uint8Array;
  headers: Record<string, string>;
}

export interface ServerContext extends KeyAccess {
  models: ModelRegistry;
  /** null: no files and no jobs. */
  fineTuning: FineTuning | null;
  /** Where studies for raters are; null: none are served. */
  studies: Store | null;
  /** Where the arena's battles go; null: there is no arena. */
  arena: Store | null;
  /** Where answers that people report go; null: none are taken. */
  reports: Store | null;
  /** Who judges texts, and for which requests; null: the built-in judges, for requests that ask. */
  moderation: ServerModeration | null;
  version: string;
  limits: Limits;
  /** Host names, without port, that a request may name besides loopback names, IP addresses and `boundHost`; "*" allows all. */
  allowedHosts: readonly string[];
  boundHost: string;
  /** Origins of web pages that may call this server; "*" allows all. Empty: only its own pages. */
  corsOrigins: readonly string[];
  /** strict: an unknown parameter is an error; lenient: it is listed in x-koala-ignored-parameters. */
  unknownParameters: "strict" | "lenient";
  /** Prompts of token ids run behind the model's BOS where they have none; answers do not show it. */
  scoreBos: boolean;
  /** Static pages by path, served without a key. */
  pages: Readonly<Record<string, Page>>;
  lifecycle: Lifecycle;
  metrics: Metrics;
  /** One line of JSON for each request that failed on our side. Bodies never reach it. */
  log: (line: string) => void;
}

/** A context with everything that has a sensible default filled in. */
export function serverContext(
  given: Pick<ServerContext, "models"> &
    Partial<Omit<ServerContext, "limits">> & { limits?: Partial<Limits> },
): ServerContext {
  return {
    fineTuning: null,
    studies: null,
    arena: null,
    reports: null,
    moderation: null,
    version: "0.0.0",
    apiKeys: [],
    requireKey: false,
    keyUsed: () => {},
    allowedHosts: [],
    boundHost: "127.0.0.1",
    corsOrigins: [],
    unknownParameters: "strict",
    scoreBos: false,
    pages: {},
    lifecycle: new Lifecycle(),
    metrics: new Metrics(),
    log: (line) => console.error(line),
    ...given,
    limits: { ...DEFAULT_LIMITS, ...given.limits },
  };
}
