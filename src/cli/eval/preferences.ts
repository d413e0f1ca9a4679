/** `koala eval preferences`: is the answer that people chose the likelier one, behind each marker? */
import type { Command } from "commander";
import { readRecords } from "../../data/reader.ts";
import type { PreferenceRecord, TrainingMessage } from "../../data/record.ts";
import {
  byContrast,
  preferenceFigures,
  scorePairs,
  type PairRows,
  type PreferenceFigures,
  type Sums,
} from "../../eval/tasks/preferences.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { integer } from "../model_options.ts";
import {
  addScoredModelFlags,
  openScoredModel,
  type ChatTurn,
  type ScoredModel,
  type ScoredModelFlags,
} from "./scored_model.ts";

interface PreferenceFlags extends ScoredModelFlags {
  marker?: string[];
  limit?: number;
}

export function registerPreferences(verb: Command): void {
  const command = verb
    .command("preferences <model> <file>")
    .description(
      "how often the chosen answer of a pair is likelier than the rejected one (HH, DPO and OpenAI's pairs), by marker",
    )
    .option(
      "--marker <texts...>",
      "markers of Koala's format: positive, negative or words of yours (default: the template's own)",
    )
    .option("--limit <n>", "only so many pairs of the file", integer(1, 2 ** 31 - 1));
  addScoredModelFlags(command).action(run);
}

interface Prompted {
  messages: ChatTurn[];
  chosen: string;
  rejected: string;
}

async function run(name: string, file: string, flags: PreferenceFlags): Promise<void> {
  const { pairs, dropped } = await readPairs(file, flags.limit ?? Infinity);
  const model = await openScoredModel(name, flags);
  const markers: (string | null)[] = flags.marker ?? [null];
  const found: { figures: PreferenceFigures; sums: [Sums, Sums][] }[] = [];
  try {
    const rows = await rowsOf(model, pairs, markers);
    dropped.push(...rows.dropped);
    for (const [index, marker] of markers.entries()) {
      const progress = new Progress("items");
      const label = marker ?? "the template's own";
      const sums = await scorePairs(rows.byMarker[index]!, model.tokens!.score, (done) =>
        progress.update(label, done, rows.byMarker[index]!.length),
      );
      found.push({ figures: preferenceFigures(label, sums), sums });
    }
  } finally {
    await model.close();
  }
  print(model.modelId, found, dropped, flags.json ?? false);
}

/** Only pairs whose sides are one answer each: elsewhere a side holds questions, which nobody chose. */
async function readPairs(file: string, limit: number): Promise<{ pairs: Prompted[]; dropped: string[] }> {
  const pairs: Prompted[] = [];
  const dropped: string[] = [];
  for await (const read of readRecords(file)) {
    if (pairs.length >= limit) break;
    const pair = read.verdict === "dropped" ? read.reason : prompted(read.record as PreferenceRecord);
    if (typeof pair === "string") dropped.push(pair);
    else pairs.push(pair);
  }
  if (pairs.length > 0) return { pairs, dropped };
  throw new UsageError(`${file} holds no pair of answers to compare: ${dropped[0] ?? "it is empty"}.`);
}

function prompted({ kind, messages, chosen, rejected }: PreferenceRecord): Prompted | string {
  if (kind !== "preference") return "the record is no pair of a chosen and a rejected answer";
  if (chosen.length !== 1 || rejected.length !== 1) return "a side holds more than one message";
  const sides = [chosen[0]!, rejected[0]!].map(textOf);
  if (sides.some((side) => side.trim() === "")) return "an answer is empty";
  const turns = messages.map((message) => ({ role: message.role, content: textOf(message) }));
  return { messages: turns, chosen: sides[0]!, rejected: sides[1]! };
}

const textOf = ({ content }: TrainingMessage): string =>
  typeof content === "string" ? content : (content ?? []).map(({ text }) => text).join("\n");

/** Pairs that fit behind every marker, as ids. */
async function rowsOf(
  model: ScoredModel,
  pairs: readonly Prompted[],
  markers: readonly (string | null)[],
): Promise<{ byMarker: PairRows[][]; dropped: string[] }> {
  const tokens = model.tokens;
  if (tokens === null)
    throw new UsageError(
      "This endpoint has no /tokenize, which knows the chat template; Koala and vLLM have it.",
    );
  const byMarker = markers.map((): PairRows[] => []);
  const dropped: string[] = [];
  const progress = new Progress("items");
  for (const [index, { messages, chosen, rejected }] of pairs.entries()) {
    const rows = await Promise.all(
      markers.map(async (marker) => {
        const prompt = await model.dialogue(messages, marker, false);
        const side = async (content: string) => {
          const ids = await model.dialogue([...messages, { role: "assistant", content }], marker, true);
          return { ids, from: prompt.every((id, i) => ids[i] === id) ? prompt.length : ids.length };
        };
        return { chosen: await side(chosen), rejected: await side(rejected) };
      }),
    ).catch((error: unknown) => (error as Error).message);
    const reason = typeof rows === "string" ? rows : unfit(rows, tokens.longest);
    if (reason !== null) dropped.push(reason);
    else (rows as PairRows[]).forEach((row, m) => byMarker[m]!.push(row));
    progress.update("tokenising", index + 1, pairs.length);
  }
  if (byMarker[0]!.length > 0) return { byMarker, dropped };
  throw new UsageError(`No pair can be scored: ${dropped[0]}`);
}

function unfit(rows: readonly PairRows[], longest: number): string | null {
  const sides = rows.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  if (sides.some(({ ids }) => ids.length > longest)) return `a conversation has more than ${longest} tokens`;
  return sides.some(({ ids, from }) => from >= ids.length)
    ? "the chat template does not continue its own prompt with the answer"
    : null;
}

function print(
  model: string,
  found: readonly { figures: PreferenceFigures; sums: [Sums, Sums][] }[],
  dropped: readonly string[],
  json: boolean,
): void {
  const contrasts = found.slice(1).map(({ figures, sums }) => ({
    good: found[0]!.figures.marker,
    bad: figures.marker,
    accuracy: byContrast(found[0]!.sums, sums),
  }));
  const reasons = Object.fromEntries(
    [...Map.groupBy(dropped, (reason) => reason)].map(([k, v]) => [k, v.length]),
  );
  const markers = found.map(({ figures }) => figures);
  if (json) return console.log(JSON.stringify({ model, markers, contrasts, dropped: reasons }, null, 2));
  const width = Math.max(6, ...markers.map(({ marker }) => marker.length));
  console.log(`${"marker".padEnd(width)}   pairs  chosen likelier %        per token %  margin per token`);
  for (const { marker, pairs, accuracy, standardError, accuracyPerToken, margin } of markers)
    console.log(
      `${marker.padEnd(width)}  ${String(pairs).padStart(6)}  ${percent(accuracy).padStart(8)} ± ${percent(standardError)}  ${percent(accuracyPerToken).padStart(17)}  ${margin.toFixed(4).padStart(16)}`,
    );
  for (const { good, bad, accuracy } of contrasts)
    console.log(`gain from ${bad} to ${good} is larger for the chosen answer: ${percent(accuracy)} %`);
  for (const [reason, count] of Object.entries(reasons)) console.log(`${count} dropped: ${reason}`);
}

const percent = (share: number): string => (100 * share).toFixed(1);
