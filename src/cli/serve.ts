/** `koala serve`: one model behind the OpenAI API and a chat page, until SIGTERM or Ctrl-C. */
import type { Command } from "commander";
import type { ServedModel } from "../server/context.ts";
import { createServer } from "../server/app.ts";
import { apiKey } from "../server/auth.ts";
import { ModelRegistry, serverContext, type ServerContext } from "../server/context.ts";
import { listen } from "../server/listen.ts";
import { loadPages } from "../server/web/pages.ts";
import { UsageError } from "../util/errors.ts";
import { bytesText } from "../util/progress.ts";
import { version } from "../util/version.ts";
import { addModelFlags, integer, number } from "./model_options.ts";
import { openServedModel, type ServedModelFlags } from "./served_model.ts";

interface ServeFlags extends ServedModelFlags {
  model?: string;
  host: string;
  port: number;
  apiKey: string[];
  allowedHost: string[];
  corsOrigin: string[];
  lenient: boolean;
  shutdownTimeout: number;
}

const howToName = `No model was named. Name a folder in Hugging Face layout or a hub name:
  koala serve --model ./my-model
  koala serve --model Qwen/Qwen2.5-0.5B-Instruct`;

export function register(program: Command): void {
  const command = program
    .command("serve")
    .description("serve a model behind the OpenAI API, with a chat page at /")
    .option("--model <name>", "folder or hub name (org/model, org/model@revision) of the model")
    .option("--served-model-name <id>", "the model's id in the API (default: its folder's name)")
    .option("--host <address>", "address to listen on; 0.0.0.0 is every network", "127.0.0.1")
    .option("--port <n>", "port to listen on; 0 takes a free one", integer(0, 65535), 8000)
    .option(
      "--api-key <key>",
      "require this key; may be given several times (also KOALA_API_KEYS, comma-separated)",
      collect,
      [],
    )
    .option(
      "--allowed-host <name>",
      "host name that requests may use besides this machine's; may be given several times",
      collect,
      [],
    )
    .option(
      "--cors-origin <origin>",
      "web origin that may call the API; may be given several times, * for all",
      collect,
      [],
    )
    .option("--chat-template <name>", "koala, chatml or a Jinja file instead of the model's own template")
    .option("--max-queue <n>", "requests that may wait; more are answered 429", integer(1, 1e6))
    .option(
      "--lenient",
      "list unknown request parameters in a response header instead of refusing them",
      false,
    )
    .option(
      "--shutdown-timeout <s>",
      "seconds that running requests get after SIGTERM",
      number(0, 86400),
      30,
    );
  addModelFlags(command).action(run);
}

async function run(flags: ServeFlags): Promise<void> {
  if (!flags.model) throw new UsageError(howToName);
  const model = await openServedModel(flags.model, flags);
  try {
    await serve(model, flags);
  } finally {
    await model.engine.stop();
  }
}

/** Listens while the model loads: /readyz answers 503 until it can be used. */
async function serve(model: ServedModel, flags: ServeFlags): Promise<void> {
  const context = serverContext({
    models: new ModelRegistry([model]),
    version,
    apiKeys: [...flags.apiKey, ...keysFromEnvironment()].map((key) => apiKey(key)),
    allowedHosts: flags.allowedHost,
    boundHost: flags.host,
    corsOrigins: flags.corsOrigin,
    unknownParameters: flags.lenient ? "lenient" : "strict",
    pages: Object.fromEntries(await loadPages()),
  });
  const { host, port } = flags;
  const server = listen(createServer(context), {
    context,
    host,
    port,
    graceMs: flags.shutdownTimeout * 1000,
    signals: true,
  });
  try {
    await model.engine.ready();
  } catch (error) {
    await server.close({ graceMs: 0 });
    throw new UsageError((error as Error).message);
  }
  announce(model, server.url, context);
  await server.closed;
}

function announce(model: ServedModel, url: string, context: ServerContext): void {
  const info = model.engine.info;
  if (!info) return; // stopped while loading
  const size = `${(info.parameterCount / 1e6).toFixed(1)} M parameters, ${info.dtype}, ${bytesText(info.weightBytes)} of weights`;
  const room = `context ${info.maxModelLen} tokens, ${bytesText(info.cacheBytes)} of KV cache for ${info.maxSequences} sequences`;
  console.log(
    `${model.id}: ${size}; ${room}; loaded in ${(info.loadMs / 1000).toFixed(2)} s on ${info.device}`,
  );
  if (!model.template)
    console.log(
      "It has no chat template, so it completes text but does not chat; --chat-template koala or chatml gives it one.",
    );
  console.log(
    `Serving ${url}/v1 (chat page ${url}/, API reference ${url}/docs${context.apiKeys.length > 0 ? ", key required" : ""})`,
  );
}

const keysFromEnvironment = (): string[] =>
  (process.env["KOALA_API_KEYS"] ?? "").split(",").filter((key) => key !== "");

const collect = (value: string, previous: string[]): string[] => [...previous, value];
