/** The answers of a study's systems, frozen: from an engine of our own behind the API that `koala serve` serves, from any OpenAI
 *  endpoint, or from a file.
 *  Always: an answer is written once and kept; a killed run asks only what was not answered; answers of our engine depend on
 *  model, question and decoding alone. */
import { appendFile, mkdir, readFile, rm, truncate } from "node:fs/promises";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { materialPath } from "../../data/curation.ts";
import { runStage, writeWhole, type StageRecord } from "../../data/stages.ts";
import { defaultRunnerOptions } from "../../engine/load_runner.ts";
import type { Answer, Question } from "../../eval/comparison.ts";
import { identityLeaks, leakTable } from "../../eval/identity_leak.ts";
import { readJsonLines, toJsonLines } from "../../eval/jsonl.ts";
import { builtinModel, builtinName } from "../../model/builtin_model.ts";
import { hashFile } from "../../text/fingerprint.ts";
import type { Json } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { openApi, type Api } from "../api.ts";
import { resolveModel } from "../model_options.ts";
import { weightHashes, type TrainedModel } from "./material.ts";
import type { StudyRecipe, StudySystemTable } from "./study_recipe.ts";

export interface Answered {
  system: string;
  answers: Answer[];
  /** What the report says of the system. */
  details: Record<string, string>;
  stage: StageRecord;
}

export interface AnswerOptions {
  study: StudyRecipe;
  folder: string;
  questions: readonly Question[];
  trained: readonly TrainedModel[];
}

export async function answerStage(system: StudySystemTable, options: AnswerOptions): Promise<Answered> {
  const { folder, questions } = options;
  const voice = await voiceOf(system, options);
  const file = `answers/${system.id}.jsonl`;
  const asked = questions.map(({ id, text }) => [id, text]);
  const inputs: Json = [1, voice.identity, asked];
  const stage = await runStage(folder, { name: `answer-${system.id}`, inputs }, async () => {
    const answers = await voice.answer(questions);
    await writeWhole(join(folder, file), toJsonLines(answers));
    return [file];
  });
  const answers = await readJsonLines(join(folder, file), answerRow);
  return { system: system.id, answers, details: voice.details, stage };
}

/** How a system is asked. */
interface Voice {
  /** What its answers depend on. */
  identity: Json;
  details: Record<string, string>;
  answer(questions: readonly Question[]): Promise<Answer[]>;
}

async function voiceOf(system: StudySystemTable, options: AnswerOptions): Promise<Voice> {
  const { study, folder } = options;
  if (system.answers !== undefined) {
    const places = { raw: study.rawFolder, directory: study.directory };
    return fileVoice(system.id, materialPath(places, system.answers));
  }
  const decoding = { ...study.decoding, ...system.decoding };
  const request = Object.fromEntries(Object.entries(decoding).filter(([, value]) => value !== undefined));
  const shown = Object.entries(request).map(([key, value]) => [key, String(value)]);
  const details: Record<string, string> = Object.fromEntries(shown);
  const asking = (open: () => Promise<Api>, model?: string) => (questions: readonly Question[]) =>
    ask({ open, model, request, questions, system: system.id, folder });
  if (system.endpoint) {
    const { url, model, api_key_env: variable } = system.endpoint;
    Object.assign(details, { server: url, ...(model === undefined ? {} : { model }) });
    const open = () => openApi(url, { ...serving, ...keyOf(variable) });
    return { identity: { url, model: model ?? null, request } as Json, details, answer: asking(open, model) };
  }
  const own = options.trained.find(({ id }) => id === system.trained);
  const named = system.folder === builtinName ? builtinModel() : (system.folder ?? "");
  const found = resolve(study.directory, named);
  const directory = own?.directory ?? (await resolveModel(existsSync(found) ? found : named));
  const weights = own?.weights ?? (await weightHashes(directory));
  const [first] = Object.values(weights);
  Object.assign(details, { weights: first?.slice(0, 16) ?? "none" });
  const template = system.template;
  if (template !== undefined) details.template = template;
  const flags = { ...serving, ...(template === undefined ? {} : { chatTemplate: template }) };
  return {
    identity: { weights, request, template: template ?? null } as Json,
    details,
    answer: asking(() => openApi(directory, flags)),
  };
}

const serving = { ...defaultRunnerOptions, device: "cpu", maxModelLen: undefined, cacheMemory: undefined };

export function keyOf(variable: string | undefined): { apiKey?: string } {
  if (variable === undefined) return {};
  const apiKey = process.env[variable];
  if (apiKey) return { apiKey };
  throw new UsageError(
    `The recipe takes a key from the environment variable ${variable}, and it is not set.`,
  );
}

interface Asking {
  open: () => Promise<Api>;
  model: string | undefined;
  request: Record<string, unknown>;
  questions: readonly Question[];
  system: string;
  folder: string;
}

/** Requests that run together: enough to fill an engine's batch, few enough for any endpoint's limits. */
const concurrency = 8;

/** Answers come in any order into a file beside the final one, and leave it in the questions' order. */
async function ask({ open, model, request, questions, system, folder }: Asking): Promise<Answer[]> {
  const partial = join(folder, "answers", `${system}.partial.jsonl`);
  const asked = JSON.stringify([model ?? null, request, questions.map(({ text }) => text)]);
  const known = await resumed(partial, asked);
  const progress = new Progress("items");
  const left = questions.filter(({ id }) => !known.has(id)).values();
  if (known.size < questions.length) {
    const api = await open();
    const worker = async () => {
      for (const question of left) {
        const answer = await answerOf(api, model ?? api.modelId, request, question);
        const row = { question: question.id, system, ...answer };
        await appendFile(partial, toJsonLines([row]));
        known.set(question.id, row);
        progress.update(`${system}: answering`, known.size, questions.length);
      }
    };
    try {
      await Promise.all(Array.from({ length: concurrency }, worker));
    } finally {
      await api.close();
    }
  }
  await rm(partial);
  return questions.map(({ id }) => known.get(id)!);
}

/** Answers of a run that was killed, if it asked the same; its last line may be half a line. */
async function resumed(path: string, asked: string): Promise<Map<string, Answer>> {
  await mkdir(dirname(path), { recursive: true });
  const head = `${JSON.stringify({ asked })}\n`;
  const bytes = existsSync(path) ? await readFile(path) : Buffer.alloc(0);
  if (!bytes.toString().startsWith(head)) {
    await writeWhole(path, head);
    return new Map();
  }
  const whole = bytes.lastIndexOf(10) + 1;
  if (whole < bytes.length) await truncate(path, whole);
  const lines = bytes.subarray(head.length, whole).toString().split("\n").filter(Boolean);
  return new Map(lines.map((line) => JSON.parse(line) as Answer).map((answer) => [answer.question, answer]));
}

async function answerOf(
  api: Api,
  model: string,
  request: Record<string, unknown>,
  question: Question,
): Promise<{ text: string; finish: string }> {
  const messages = [{ role: "user", content: question.text }];
  let text = "";
  let finish = "stop";
  for await (const { choices } of api.post("/v1/chat/completions", {
    ...request,
    model,
    messages,
    stream: true,
  })) {
    const [choice] = choices;
    text += choice?.delta?.content ?? "";
    finish = choice?.finish_reason ?? finish;
  }
  return { text, finish };
}

const answerRow = z.object({
  question: z.string(),
  system: z.string(),
  text: z.string(),
  finish: z.string().default("stop"),
});

const foreignRow = z
  .object({
    id: z.union([z.string(), z.number()]).optional(),
    question: z.string().optional(),
    text: z.string().optional(),
    answer: z.string().optional(),
    output: z.string().optional(),
    finish: z.string().default("stop"),
  })
  .refine(({ id, question }) => (id ?? question) !== undefined, {
    message: "a row needs an id or a question",
  })
  .refine(({ text, answer, output }) => (text ?? answer ?? output) !== undefined, {
    message: "a row needs text, answer or output",
  });

/** Answers that somebody else made: by the question's id (with or without its set), or by its words. */
async function fileVoice(system: string, path: string): Promise<Voice> {
  if (!existsSync(path)) throw new UsageError(`There is no file ${path} with the answers of ${system}.`);
  const sha256 = await hashFile(path);
  return {
    identity: { file: sha256 },
    details: { answers: `file of sha256 ${sha256.slice(0, 16)}` },
    answer: async (questions) => {
      const rows = await readJsonLines(path, foreignRow);
      const byName = new Map(
        rows.flatMap((row) =>
          [row.id, row.question].flatMap((key) => (key === undefined ? [] : [[String(key), row]])),
        ) as [string, (typeof rows)[number]][],
      );
      return questions.map(({ id, set, text }) => {
        const row = byName.get(id) ?? byName.get(id.slice(set.length + 1)) ?? byName.get(text);
        if (!row) throw new UsageError(`${path} has no answer to the question ${id}.`);
        return { question: id, system, text: (row.text ?? row.answer ?? row.output)!, finish: row.finish };
      });
    },
  };
}

/** For the terminal and the study's folder: lengths, endings, and answers that name a model. */
export function answerTable(all: readonly Answered[], questions: readonly Question[]): string {
  const prompts = new Map(questions.map(({ id, text }) => [id, text]));
  const systems = all.map(({ system }) => system);
  const leaks = leakTable(
    all.flatMap(({ answers }) =>
      answers.map(({ system, text, question }) => ({
        system,
        leaks: identityLeaks(text, { systems, prompt: prompts.get(question) ?? "" }),
      })),
    ),
  );
  const rows = all.map(({ system, answers }) => {
    const lengths = answers.map(({ text }) => text.length).sort((a, b) => a - b);
    const mean = lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, lengths.length);
    const leak = leaks.find((row) => row.system === system);
    const ended = answers.filter(({ finish }) => finish !== "stop").length;
    const words = Object.entries(leak?.words ?? {}).map(([word, count]) => `${word} ${count}`);
    return [
      system,
      String(answers.length),
      mean.toFixed(0),
      String(lengths[lengths.length >> 1] ?? 0),
      String(ended),
      String(leak?.leaking ?? 0),
      words.join(", "),
    ];
  });
  const head = ["system", "answers", "mean length", "median", "cut or failed", "name a model", "words"];
  const table = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...table.map((row) => row[i]!.length)));
  return table
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
