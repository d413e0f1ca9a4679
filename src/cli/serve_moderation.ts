/** `koala serve --moderation …`: the chain of judges as flags, and the reports of the page. */
import { type Command, Option } from "commander";
import type { ServedModel, ServerContext } from "../server/context.ts";
import type { Backend } from "../server/moderation/backend.ts";
import { guardBackend } from "../server/moderation/guard.ts";
import { linearBackend } from "../server/moderation/linear.ts";
import { Moderator } from "../server/moderation/moderator.ts";
import { onnxBackend } from "../server/moderation/onnx.ts";
import { remoteBackend } from "../server/moderation/remote.ts";
import { readRules, rulesBackend } from "../server/moderation/rules.ts";
import { takingReports } from "../server/web/pages.ts";
import { categories, type Category, isCategory } from "../eval/moderation/categories.ts";
import { UsageError } from "../util/errors.ts";
import { databaseUrl } from "./database_option.ts";
import { number } from "./model_options.ts";
import { openServedModel, type ServedModelFlags } from "./served_model.ts";

export interface ModerationFlags extends ServedModelFlags {
  moderation?: string;
  moderationPolicy: "block" | "score";
  moderationFail: "closed" | "open";
  moderationThreshold: string[];
  moderationTimeout: number;
  moderationModules: string;
  reports: boolean;
}

export function addModerationFlags(command: Command): Command {
  return command
    .option(
      "--moderation <chain>",
      "judges of questions and answers, separated by commas: rules, rules:FILE, linear, guard:MODEL, url:ADDRESS (key in KOALA_MODERATION_KEY), onnx:FOLDER",
    )
    .addOption(
      new Option(
        "--moderation-policy <policy>",
        "block: refuse what is flagged, and hold answers back until they are judged; score: only log and count",
      )
        .choices(["block", "score"])
        .default("block"),
    )
    .addOption(
      new Option("--moderation-fail <way>", "closed: what cannot be judged is refused; open: it passes")
        .choices(["closed", "open"])
        .default("closed"),
    )
    .option(
      "--moderation-threshold <category=score>",
      "score from which a category is flagged, as sexual=0.3 (default: 0.5); may be given several times",
      (value: string, previous: string[]) => [...previous, value],
      [],
    )
    .option("--moderation-timeout <s>", "seconds that a judge gets for an answer", number(0.05, 600), 10)
    .option(
      "--moderation-modules <folder>",
      "where onnx finds the npm packages @huggingface/transformers and onnxruntime-node",
      ".",
    )
    .option("--reports", "let people report answers on the chat page; koala flags shows the reports", false);
}

/** Null where nothing is moderated but what asks for it. Closes the models that it opened. */
export async function serveModeration(
  context: ServerContext,
  flags: ModerationFlags,
): Promise<{ close(): Promise<void> } | null> {
  const thresholds = thresholdsOf(flags.moderationThreshold);
  if (flags.moderation === undefined) {
    if (flags.moderationThreshold.length === 0) return null;
    throw new UsageError("--moderation-threshold goes with --moderation.");
  }
  const backends: Backend[] = [];
  try {
    for (const part of flags.moderation.split(","))
      backends.push(await backendOf(part.trim(), context, flags));
    const names = backends.map(({ name }) => name);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw new UsageError(`--moderation names ${twice} twice.`);
  } catch (error) {
    await Promise.all(backends.map((backend) => backend.close?.()));
    throw error;
  }
  const moderator = new Moderator(backends, {
    thresholds,
    fail: flags.moderationFail,
    timeoutMs: flags.moderationTimeout * 1000,
  });
  context.moderation = { moderator, mode: flags.moderationPolicy };
  return moderator;
}

async function backendOf(part: string, context: ServerContext, flags: ModerationFlags): Promise<Backend> {
  const [kind, ...rest] = part.split(":");
  const value = rest.join(":");
  if (part === "linear") return linearBackend();
  if (part === "rules") return rulesBackend();
  if (value !== "" && kind === "rules") return rulesBackend(readRules(value));
  if (value !== "" && kind === "guard") return guardOf(value, context, flags);
  if (value !== "" && kind === "onnx") return onnxBackend(value, flags.moderationModules);
  if (value !== "" && kind === "url")
    return remoteBackend(value, { apiKey: process.env["KOALA_MODERATION_KEY"] ?? null });
  throw new UsageError(
    `--moderation ${part} is none of rules, rules:FILE, linear, guard:MODEL, url:ADDRESS and onnx:FOLDER.`,
  );
}

/** A model that is served anyway judges in its own engine; another gets one, which ends with the server. */
async function guardOf(name: string, context: ServerContext, flags: ModerationFlags): Promise<Backend> {
  const served = context.models.list().find(({ id }) => id === name);
  const { servedModelName: _name, chatTemplate: _template, ...shared } = flags;
  const model: ServedModel = served ?? (await openServedModel(name, shared));
  if (model.template === null) {
    if (served === undefined) await model.engine.stop();
    throw new UsageError(
      `--moderation guard:${name}: the model has no chat template, so it cannot be asked.`,
    );
  }
  if (served !== undefined) return guardBackend(model);
  await model.engine.ready().catch((error: unknown) => {
    throw new UsageError((error as Error).message);
  });
  return guardBackend(model, () => model.engine.stop());
}

function thresholdsOf(given: readonly string[]): Partial<Record<Category, number>> {
  const thresholds: Partial<Record<Category, number>> = {};
  for (const text of given) {
    const [name = "", score = ""] = text.split("=");
    if (!isCategory(name) || score === "" || !(Number(score) > 0 && Number(score) <= 1))
      throw new UsageError(
        `--moderation-threshold ${text} is not category=score with a score above 0 and up to 1; the categories are ${categories.join(", ")}.`,
      );
    thresholds[name] = Number(score);
  }
  return thresholds;
}

export async function serveReports(
  context: ServerContext,
  database: string | undefined,
): Promise<{ close(): Promise<void> }> {
  // Loaded when asked for: most servers open no database.
  const { openStore } = await import("../store/store.ts");
  const store = await openStore(databaseUrl(database));
  context.reports = store;
  context.pages = { ...context.pages, "/": takingReports(context.pages["/"]!) };
  return store;
}
