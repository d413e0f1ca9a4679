/** A server over a fake engine, called without a port. */

import { createServer } from "../../src/server/app.ts";
import {
  ModelRegistry,
  serverContext,
  type ServedModel,
  type ServerContext,
} from "../../src/server/context.ts";
import { listen, type RunningServer } from "../../src/server/listen.ts";
import type { Limits } from "../../src/server/limits.ts";
import { builtinTemplate } from "../../src/text/template.ts";
import { byteTokenizer, FakeEngine, type FakeOptions } from "./fake_engine.ts";

export interface TestServer {
  engine: FakeEngine;
  model: ServedModel;
  context: ServerContext;
  app: ReturnType<typeof createServer>;
  /** Lines that went to the log. */
  log: string[];
  post(
    path: string,
    body: unknown,
    options?: { headers?: Record<string, string>; signal?: AbortSignal },
  ): Promise<Response>;
  get(path: string, headers?: Record<string, string>): Promise<Response>;
}

type Given = Partial<Omit<ServerContext, "limits" | "models">> & {
  limits?: Partial<Limits>;
  engine?: FakeOptions;
  model?: Partial<ServedModel>;
};

const tokenizer = byteTokenizer();

export function testServer(given: Given = {}): TestServer {
  const { engine: options = {}, model: overrides = {}, ...rest } = given;
  const engine = new FakeEngine(tokenizer, options);
  const model: ServedModel = {
    id: "tiny",
    aliases: ["gpt-test"],
    engine,
    tokenizer,
    template: builtinTemplate("chatml", tokenizer),
    toolFormat: null,
    created: 1_700_000_000,
    generationDefaults: {},
    maxModelLen: options.maxModelLen ?? 2048,
    path: "/models/tiny",
    ...overrides,
  };
  const log: string[] = [];
  const context = serverContext({
    models: new ModelRegistry([model]),
    log: (line) => log.push(line),
    ...rest,
  });
  const app = createServer(context);
  return {
    engine,
    model,
    context,
    app,
    log,
    post: async (path, body, init = {}) =>
      app.request(path, {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
        headers: init.headers ?? {},
        ...(init.signal ? { signal: init.signal } : {}),
      }),
    get: async (path, headers = {}) => app.request(path, { headers }),
  };
}

/** The same on a real port of loopback. */
export function listeningServer(given: Given = {}): TestServer & { running: RunningServer } {
  const server = testServer(given);
  return { ...server, running: listen(server.app, { context: server.context, host: "127.0.0.1", port: 0 }) };
}

/** The parsed `data:` events of a stream; comments apart. */
export async function readEvents(
  response: Response,
): Promise<{ events: any[]; comments: string[]; done: boolean }> {
  const blocks = (await response.text()).split("\n\n").filter((block) => block !== "");
  const data = blocks.filter((block) => block.startsWith("data: ")).map((block) => block.slice(6));
  return {
    // any: answers are read as a client would, without our types.
    events: data.filter((text) => text !== "[DONE]").map((text) => JSON.parse(text) as any),
    comments: blocks.filter((block) => block.startsWith(":")),
    done: data.at(-1) === "[DONE]",
  };
}

/** Waits until `condition` holds, at most two seconds. */
export async function eventually(condition: () => boolean): Promise<boolean> {
  for (let i = 0; i < 400 && !condition(); i++) await Bun.sleep(5);
  return condition();
}
