/** `koala serve --data-dir`: files, fine-tuning jobs and their models in a server's context. */
import { join } from "node:path";
import { LazyEngine } from "../../engine/lazy_engine.ts";
import type { ModelRegistry, ServerContext } from "../../server/context.ts";
import { linkingTo } from "../../server/web/pages.ts";
import { loadTrainingPages } from "../../server/web/training/pages.ts";
import type { StoredModel } from "../../store/models.ts";
import { selfCommand } from "../../util/self_command.ts";
import { openTunedAdapter } from "../adapter_models.ts";
import { databaseUrl } from "../database_option.ts";
import { openServedModel, type ServedModelFlags } from "../served_model.ts";
import { startFineTuning } from "./fine_tuning.ts";
import { portableTemplate } from "./folders.ts";
import type { TunedModel } from "./tuned_models.ts";

/** A model that nobody asks gives its memory back after this long. */
const idleMs = 15 * 60_000;

export interface JobFlags extends ServedModelFlags {
  dataDir: string;
  database?: string;
  trainingThreads: number;
  trainingJobs: number;
  trainingRanks: number;
  maxStorage?: number;
}

export async function serveJobs(
  context: ServerContext,
  flags: JobFlags,
): Promise<{ close(): Promise<void> }> {
  const running = await startFineTuning({
    // Jobs without their files are worth nothing, so that the database lies beside them unless it is named.
    database: databaseUrl(flags.database, join(flags.dataDir, "koala.db")),
    dataDirectory: flags.dataDir,
    registry: context.models,
    template: flags.chatTemplate === undefined ? null : portableTemplate(flags.chatTemplate),
    threads: flags.trainingThreads,
    jobsMax: flags.trainingJobs,
    ranksMax: flags.trainingRanks,
    storageMax: flags.maxStorage ?? null,
    command: (options) => selfCommand("train-job", JSON.stringify(options)),
    open: (row, directory) => openTuned(row, directory, context.models, flags),
    log: (line) => console.error(`koala: ${line}`),
  });
  context.fineTuning = running.fineTuning;
  context.pages = { ...context.pages, ...Object.fromEntries(await loadTrainingPages()) };
  const { "/": chat } = context.pages;
  if (chat) context.pages = { ...context.pages, "/": linkingTo("/training", chat) };
  return running;
}

/** An adapter of a base that is served here runs in the base's engine; whatever else was made, in a process of its own.
 *  The base's flags hold for what was tuned from it, but for its names. */
async function openTuned(
  row: StoredModel,
  directory: string,
  registry: ModelRegistry,
  flags: JobFlags,
): Promise<TunedModel> {
  const adapter = await openTunedAdapter(row, directory, registry);
  if (adapter !== null) {
    adapter.engine
      .ready()
      .catch((error: Error) =>
        console.error(`koala: The model ${row.id} cannot be served: ${error.message}`),
      );
    return adapter;
  }
  const { servedModelName: _, chatTemplate: __, ...rest } = flags;
  const own = row.template === null ? rest : { ...rest, chatTemplate: row.template };
  const model = await openServedModel(directory, own, {
    id: row.id,
    parent: row.parent,
    created: Math.floor(row.createdAt.getTime() / 1000),
    engine: (start) => new LazyEngine({ start, idleMs }),
  });
  return model as TunedModel;
}
