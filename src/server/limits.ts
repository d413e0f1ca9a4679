/** Every bound on what a request may ask for. Nothing that a client sends is unbounded. */

export interface Limits {
  bodyBytesMax: number;
  /** Of a file that one request may bring; it goes to disk as it comes. */
  uploadBytesMax: number;
  /** Nesting of arrays and objects in a JSON body. */
  jsonDepthMax: number;
  /** Members of all objects of a body together: a million-key object would block the event loop for seconds. */
  jsonMembersMax: number;
  /** Most sequences that one request may ask for (prompts times n or best_of). */
  sequencesMax: number;
  /** Of those, how many are in the engine at a time; the rest of the batch follows as they finish. */
  sequencesAtOnce: number;
  /** Text that may wait for a slow reader of a stream before the connection is dropped. */
  streamBufferBytesMax: number;
  /** A silent stream gets a comment this often, so that proxies keep it open. */
  pingMs: number;
  /** No finished engine step for this long while something runs: the model counts as stalled. */
  stalledMs: number;
}

export const DEFAULT_LIMITS: Limits = {
  bodyBytesMax: 8 * 2 ** 20,
  uploadBytesMax: 512 * 2 ** 20,
  jsonDepthMax: 64,
  jsonMembersMax: 100_000,
  sequencesMax: 2048,
  sequencesAtOnce: 64,
  streamBufferBytesMax: 2 ** 20,
  pingMs: 4000,
  stalledMs: 90_000,
};

/** Bounds of single fields, in the schemas and so in /openapi.json. */
export const FIELD = {
  choices: 128,
  bestOf: 128,
  topLogprobs: 20,
  stops: 16,
  stopLength: 1024,
  stopTokenIds: 128,
  logitBias: 1024,
  messages: 4096,
  contentParts: 256,
  tools: 128,
  toolCalls: 128,
  nameLength: 256,
  markerLength: 128,
  contrastStrength: 20,
  int32: 2 ** 31 - 1,
  priority: 1_000_000,
  embeddings: 2048,
  easylmBatch: 2048,
} as const;
