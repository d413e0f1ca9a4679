/** `koala serve`: one model behind the OpenAI API and a chat page, until SIGTERM or Ctrl-C. */
import type { Command } from "commander";
import { defaultRunnerOptions } from "../engine/load_runner.ts";
import type { ServedModel } from "../server/context.ts";
import { createServer } from "../server/app.ts";
import { apiKey } from "../server/auth.ts";
import { ModelRegistry, serverContext, type ServerContext } from "../server/context.ts";
import { listen } from "../server/listen.ts";
import { loadPages } from "../server/web/pages.ts";
import { UsageError } from "../util/errors.ts";
import { bytesText } from "../util/progress.ts";
import { version } from "../util/version.ts";
import { openAdapters } from "./adapter_models.ts";
import { openBuiltinModels } from "./builtin.ts";
import { addDatabaseFlag } from "./database_option.ts";
import { addModelFlags, integer, number, size } from "./model_options.ts";
import { openServedModel } from "./served_model.ts";
import {
  addModerationFlags,
  type ModerationFlags,
  serveModeration,
  serveReports,
} from "./serve_moderation.ts";

interface ServeFlags extends ModerationFlags {
  model?: string;
  host: string;
  port: number;
  apiKey: string[];
  keys: boolean;
  database?: string;
  dataDir?: string;
  trainingThreads: number;
  trainingJobs: number;
  trainingRanks: number;
  maxStorage?: number;
  allowedHost: string[];
  corsOrigin: string[];
  lora: string[];
  lenient: boolean;
  scoreBos: boolean;
  shutdownTimeout: number;
  arena: boolean;
}

const howToName = `No model was named, so this serves the built-in demonstration. Name a folder in Hugging Face layout or a hub name:
  koala serve --model ./my-model
  koala serve --model Qwen/Qwen2.5-0.5B-Instruct`;

export function register(program: Command): void {
  const command = program
    .command("serve")
    .description("serve a model behind the OpenAI API, with a chat page at /")
    .option(
      "--model <name>",
      "folder or hub name (org/model, org/model@revision) of the model (default: a built-in demonstration)",
    )
    .option("--served-model-name <id>", "the model's id in the API (default: its folder's name)")
    .option("--host <address>", "address to listen on; 0.0.0.0 is every network", "127.0.0.1")
    .option("--port <n>", "port to listen on; 0 takes a free one", integer(0, 65535), 8000)
    .option(
      "--api-key <key>",
      "require this key; may be given several times (also KOALA_API_KEYS, comma-separated)",
      collect,
      [],
    )
    .option("--keys", "require a key made by koala keys; revoked ones stop within seconds", false)
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
    .option(
      "--lora <name=path>",
      "serve a LoRA adapter (PEFT folder) of this model under a name of its own; may be given several times",
      collect,
      [],
    )
    .option(
      "--max-loras <n>",
      "adapters that are in memory together; one that nobody uses makes room for another",
      integer(1, 1024),
      defaultRunnerOptions.maxAdapters,
    )
    .option("--max-queue <n>", "requests that may wait; more are answered 429", integer(1, 1e6))
    .option(
      "--arena",
      "blind battles between the served models at /arena; their votes go to the database",
      false,
    )
    .option(
      "--lenient",
      "list unknown request parameters in a response header instead of refusing them",
      false,
    )
    .option(
      "--score-bos",
      "put the model's BOS before prompts of token ids without one, unseen by the client (lm-evaluation-harness sends none)",
      false,
    )
    .option(
      "--shutdown-timeout <s>",
      "seconds that running requests get after SIGTERM",
      number(0, 86400),
      30,
    );
  addTrainingFlags(addModerationFlags(addModelFlags(addDatabaseFlag(command)))).action(run);
}

function addTrainingFlags(command: Command): Command {
  return command
    .option(
      "--data-dir <folder>",
      "switch fine-tuning on: files, jobs and their models lie here, and koala.db unless --database names another",
    )
    .option(
      "--training-threads <n>",
      "compute threads of a fine-tuning job; 0 uses every core, after serving",
      integer(0, 1024),
      0,
    )
    .option("--training-jobs <n>", "fine-tuning jobs that run at the same time", integer(1, 64), 1)
    .option(
      "--training-ranks <n>",
      "processes that may train one fine-tuning job together; they share its threads",
      integer(1, 8),
      1,
    )
    .option(
      "--max-storage <size>",
      "bytes that files, uploads and what jobs make may take together, as 500MB or 2TiB (default: what the disk holds)",
      size,
    );
}

async function run(flags: ServeFlags): Promise<void> {
  const stores = flags.keys || flags.arena || flags.reports || flags.dataDir !== undefined;
  if (flags.database !== undefined && !stores)
    throw new UsageError(
      "--database names where API keys, jobs, battles and reports are, so it goes with --keys, --data-dir, --arena or --reports.",
    );
  if (!flags.model) process.stderr.write(`${howToName}\n`);
  const models = flags.model ? [await openServedModel(flags.model, flags)] : await openBuiltinModels(flags);
  try {
    models.push(...(await openAdapters(models[0] as ServedModel, flags.lora)));
    await serve(models, flags);
  } finally {
    await Promise.all(models.map((model) => model.engine.stop()));
  }
}

/** Listens while the model loads: /readyz answers 503 until it can be used. */
async function serve(models: ServedModel[], flags: ServeFlags): Promise<void> {
  const context = serverContext({
    models: new ModelRegistry(models),
    version,
    apiKeys: [...flags.apiKey, ...keysFromEnvironment()].map((key) => apiKey(key)),
    allowedHosts: flags.allowedHost,
    boundHost: flags.host,
    corsOrigins: flags.corsOrigin,
    unknownParameters: flags.lenient ? "lenient" : "strict",
    scoreBos: flags.scoreBos,
    pages: Object.fromEntries(await loadPages()),
  });
  // Loaded when asked for: most servers open no database.
  const keys = flags.keys
    ? await (await import("./stored_keys.ts")).acceptStoredKeys(context, flags.database)
    : null;
  const tuning =
    flags.dataDir === undefined
      ? null
      : await (await import("./jobs/serve_jobs.ts")).serveJobs(context, { ...flags, dataDir: flags.dataDir });
  const arena = flags.arena
    ? await (await import("./serve_arena.ts")).serveArena(context, flags.database)
    : null;
  const moderation = await serveModeration(context, flags);
  const reports = flags.reports ? await serveReports(context, flags.database) : null;
  try {
    await listenUntilStopped(models, context, flags);
  } finally {
    await reports?.close();
    await moderation?.close();
    await arena?.close();
    await tuning?.close();
    await keys?.close();
  }
}

async function listenUntilStopped(
  models: ServedModel[],
  context: ServerContext,
  flags: ServeFlags,
): Promise<void> {
  const { host, port } = flags;
  const server = listen(createServer(context), {
    context,
    host,
    port,
    graceMs: flags.shutdownTimeout * 1000,
    signals: true,
  });
  try {
    await Promise.all(models.map((model) => model.engine.ready()));
  } catch (error) {
    if (context.lifecycle.state !== "serving") return server.closed; // told to stop while it loaded
    await server.close({ graceMs: 0 });
    throw new UsageError((error as Error).message);
  }
  announce(models[0] as ServedModel, server.url, context);
  const adapters = models.filter(({ sharesEngine }) => sharesEngine).map(({ id }) => id);
  if (adapters.length > 0) console.log(`LoRA adapters beside it: ${adapters.join(", ")}.`);
  tellOfWaiting(context, flags.shutdownTimeout);
  await server.closed;
}

/** Whoever presses Ctrl-C sees why the server is still there. */
function tellOfWaiting(context: ServerContext, seconds: number): void {
  const tell = (): void => {
    const { inFlight } = context.lifecycle;
    if (inFlight > 0)
      process.stderr.write(
        `koala: requests still running: ${inFlight}; they have ${seconds} s, or until another Ctrl-C or SIGTERM.\n`,
      );
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, tell);
}

function announce(model: ServedModel, url: string, context: ServerContext): void {
  const info = model.engine.info;
  if (!info) return; // stopped while loading
  const size = `${(info.parameterCount / 1e6).toFixed(1)} M parameters, ${info.dtype}, ${bytesText(info.weightBytes)} of weights`;
  const room = `context ${info.maxModelLen} tokens, ${bytesText(info.cacheBytes)} of ${info.cacheDtype} KV cache for ${info.maxSequences} sequences`;
  console.log(
    `${model.id}: ${size}; ${room}; loaded in ${(info.loadMs / 1000).toFixed(2)} s on ${info.device}`,
  );
  if (!model.template)
    console.log(
      "It has no chat template, so it completes text but does not chat; --chat-template koala or chatml gives it one.",
    );
  console.log(
    `Serving ${url}/v1 (chat page ${url}/, ${context.fineTuning === null ? "" : `training page ${url}/training, `}API reference ${url}/docs${context.requireKey || context.apiKeys.length > 0 ? ", key required" : ""})`,
  );
}

const keysFromEnvironment = (): string[] =>
  (process.env["KOALA_API_KEYS"] ?? "").split(",").filter((key) => key !== "");

const collect = (value: string, previous: string[]): string[] => [...previous, value];
