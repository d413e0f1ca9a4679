/** All figures of a study, computed from its data alone: the same data, seed and draws give the same results, byte for byte. */
import { createHash } from "node:crypto";
import type { Vote } from "../comparison.ts";
import { identityLeaks } from "../identity_leak.ts";
import { toJsonLines } from "../jsonl.ts";
import { type BradleyTerry, bradleyTerry, winMatrix } from "../statistics/bradley_terry.ts";
import { clusterScore, clustersOf, latestVotes } from "../statistics/clusters.ts";
import { type Flip, votesToFlipFirst, votesToFlipPair } from "../statistics/flip.ts";
import {
  type JudgeAgreement,
  judgeAgreement,
  type JudgeQuality,
  judgeQuality,
  judgeVotes,
} from "../statistics/judge_agreement.ts";
import { type LengthControl, lengthControl, type LengthPoint } from "../statistics/length_control.ts";
import { type OrderBias, orderBias } from "../statistics/order_bias.ts";
import { detectableDifference } from "../statistics/power.ts";
import { RandomStream } from "../statistics/random.ts";
import { keptVotes, type RaterRecord, raterRecords } from "../statistics/raters.ts";
import { holm } from "../statistics/sign_test.ts";
import { type WinRate, winRate } from "../statistics/win_rate.ts";
import type { Pair, StudyData } from "../study_data.ts";
import { type Agreement, agreementOf } from "./agreement_table.ts";

export interface ResultsOptions {
  /** Resamples of every bootstrap; Bradley–Terry and length control, which fit a model each time, take a tenth. */
  draws: number;
  /** The criterion of the headline. */
  criterion: string;
  /** Called after each part. */
  onProgress?(done: number, total: number): void;
}

export const defaultResultsOptions: ResultsOptions = { draws: 10_000, criterion: "overall" };

/** Set name of all sets together. */
export const pooled = "all";

export interface HeadlineRow {
  pair: Pair;
  set: string;
  rate: WinRate;
  /** Holm's adjustment over the pairs of this set. */
  holmP: number;
  /** What would have been seen with power 0.8, as a difference from one half. */
  detectable: number | null;
}

export interface SystemSummary {
  id: string;
  label: string;
  answers: number;
  meanCharacters: number | null;
  /** Answers that ended otherwise than by themselves, by reason. */
  finishes: Record<string, number>;
  /** Answers that name a model, by word. */
  identityLeaks: number;
  leakWords: Record<string, number>;
}

export interface Results {
  title: string;
  seed: number;
  draws: number;
  criterion: string;
  /** sha256 of what was analysed, as JSON lines. */
  inputs: { votes: string; answers: string; judgements: string };
  questions: number;
  sets: { set: string; questions: number }[];
  systems: SystemSummary[];
  votes: { read: number; real: number; gold: number; repeat: number; analysed: number };
  /** Raters that the rule keeps. */
  headline: HeadlineRow[];
  /** All raters; null when nobody was excluded. */
  headlineAllRaters: HeadlineRow[] | null;
  /** The other criteria. */
  criteria: { criterion: string; headline: HeadlineRow[] }[];
  /** Pair and topic, pooled over sets. */
  topics: { topic: string; headline: HeadlineRow[] }[];
  agreement: Agreement;
  raters: RaterRecord[];
  orderBias: OrderBias;
  length: { pair: Pair; points: (LengthPoint & { question: string })[]; control: LengthControl }[];
  bradleyTerry: BradleyTerry;
  flips: { pair: Pair; flip: Flip | null }[];
  flipFirst: Flip | null;
  judges: { quality: JudgeQuality; agreement: JudgeAgreement[]; headline: HeadlineRow[] }[];
}

/** `data` is trusted to be whole (study_files checks what is read from disk). */
export function computeResults(data: StudyData, options: Partial<ResultsOptions> = {}): Results {
  const { draws, criterion, onProgress } = { ...defaultResultsOptions, ...options };
  const { study } = data;
  const all = latestVotes(data.votes);
  const raters = raterRecords(all, study.raterRule);
  const kept = keptVotes(all, raters);
  const ofCriterion = (votes: readonly Vote[], name: string) =>
    votes.filter((vote) => vote.criterion === name);
  const main = ofCriterion(kept, criterion);
  const excluded = raters.some((rater) => rater.excluded.length > 0);
  const others = [...new Set(kept.map((vote) => vote.criterion))].filter((name) => name !== criterion).sort();
  const headlineOf: HeadlineOf = (votes, name, sets = setNames(data)) => {
    const random = (part: string) => new RandomStream(study.seed, `${name} ${part}`);
    return headlineRows(votes, { pairs: study.pairs, sets, draws, random });
  };
  const steps = 4;
  const done = <T>(step: number, value: T): T => {
    onProgress?.(step, steps);
    return value;
  };
  return {
    title: study.title,
    seed: study.seed,
    draws,
    criterion,
    ...materialOf(data),
    votes: { ...voteCounts(data.votes), analysed: voteCounts(main).real },
    headline: done(1, headlineOf(main, "headline")),
    headlineAllRaters: done(2, excluded ? headlineOf(ofCriterion(all, criterion), "all raters") : null),
    criteria: others.map((name) => ({
      criterion: name,
      headline: headlineOf(ofCriterion(kept, name), `criterion ${name}`),
    })),
    topics: topicResults(data, main, headlineOf),
    agreement: agreementOf(main),
    raters,
    orderBias: orderBias(main, { draws, random: new RandomStream(study.seed, "order bias") }),
    ...done(3, fittedResults(data, main, fittedDraws(draws))),
    judges: done(4, judgeResults(data, main, headlineOf)),
  };
}

type HeadlineOf = (votes: readonly Vote[], name: string, sets?: readonly string[]) => HeadlineRow[];

/** Resamples of what is fitted anew in each. */
export const fittedDraws = (draws: number): number => Math.max(100, Math.round(draws / 10));

function materialOf(data: StudyData): Pick<Results, "inputs" | "questions" | "sets" | "systems"> {
  const { questions } = data.study;
  return {
    inputs: {
      votes: digest(data.votes),
      answers: digest(data.answers),
      judgements: digest(data.judgements),
    },
    questions: questions.length,
    sets: setNames(data).map((set) => ({
      set,
      questions: questions.filter((question) => set === pooled || question.set === set).length,
    })),
    systems: systemSummaries(data),
  };
}

function voteCounts(votes: readonly Vote[]) {
  const count = (kind: Vote["kind"]) => votes.filter((vote) => vote.kind === kind).length;
  return { read: votes.length, real: count("real"), gold: count("gold"), repeat: count("repeat") };
}

function topicResults(
  { study }: StudyData,
  votes: readonly Vote[],
  headlineOf: HeadlineOf,
): Results["topics"] {
  return [...new Set(Object.values(study.topics))].sort().map((topic) => {
    const own = votes.filter(({ question }) => study.topics[question] === topic);
    return { topic, headline: headlineOf(own, `topic ${topic}`, [pooled]) };
  });
}

function fittedResults(
  data: StudyData,
  votes: readonly Vote[],
  draws: number,
): Pick<Results, "length" | "bradleyTerry" | "flips" | "flipFirst"> {
  const { pairs, seed, systems } = data.study;
  const names = systems.map(({ id }) => id);
  return {
    length: pairs.map((pair) => {
      const points = lengthPoints(data, votes, pair);
      const random = new RandomStream(seed, `length ${pair.join(" ")}`);
      return { pair, points, control: lengthControl(points, { draws, random }) };
    }),
    bradleyTerry: bradleyTerry(votes, names, { draws, random: new RandomStream(seed, "Bradley-Terry") }),
    flips: pairs.map((pair) => ({ pair, flip: votesToFlipPair(clustersOf(votes, pair)) })),
    flipFirst: votesToFlipFirst(winMatrix(votes, names), names),
  };
}

function judgeResults(data: StudyData, people: readonly Vote[], headlineOf: HeadlineOf): Results["judges"] {
  return judgeQuality(data.judgements).map((quality) => {
    const judged = judgeVotes(data.judgements.filter(({ judge }) => judge === quality.judge));
    return {
      quality,
      agreement: data.study.pairs.flatMap((pair) => judgeAgreement(judged, people, pair)),
      headline: headlineOf(judged, `judge ${quality.judge}`),
    };
  });
}

/** Sets in the order of the questions; "all" after them when there are several. */
function setNames({ study }: StudyData): string[] {
  const sets = [...new Set(study.questions.map(({ set }) => set))];
  return sets.length > 1 ? [...sets, pooled] : sets;
}

/** One row a set and pair that has votes. */
function headlineRows(
  votes: readonly Vote[],
  options: {
    pairs: readonly Pair[];
    sets: readonly string[];
    draws: number;
    random: (part: string) => RandomStream;
  },
): HeadlineRow[] {
  return options.sets.flatMap((set) => {
    const rows = options.pairs.flatMap((pair) => {
      const clusters = clustersOf(votes, pair).filter((cluster) => set === pooled || cluster.set === set);
      const random = options.random(`${set} ${pair.join(" ")}`);
      const rate = winRate(clusters, { draws: options.draws, random });
      return rate === null ? [] : [{ pair, set, rate }];
    });
    const adjusted = holm(rows.map(({ rate }) => rate.signTestP));
    return rows.map((row, index) => ({
      ...row,
      holmP: adjusted[index]!,
      detectable: row.rate.standardError === null ? null : detectableDifference(row.rate.standardError),
    }));
  });
}

function lengthPoints(data: StudyData, votes: readonly Vote[], pair: Pair) {
  const lengths = new Map(
    data.answers.map(({ question, system, text }) => [`${system}\n${question}`, [...text].length]),
  );
  return clustersOf(votes, pair).flatMap((cluster) => {
    const a = lengths.get(`${pair[0]}\n${cluster.question}`);
    const b = lengths.get(`${pair[1]}\n${cluster.question}`);
    if (a === undefined || b === undefined) return [];
    return [{ question: cluster.question, score: clusterScore(cluster), difference: a - b }];
  });
}

function systemSummaries({ study, answers }: StudyData): SystemSummary[] {
  const prompts = new Map(study.questions.map(({ id, text }) => [id, text]));
  const names = study.systems.flatMap(({ id, label }) => [id, label]);
  return study.systems.map(({ id, label }) => {
    const own = answers.filter(({ system }) => system === id);
    const leaks = own.map(({ question, text }) =>
      identityLeaks(text, { systems: names, prompt: prompts.get(question) ?? "" }),
    );
    const characters = own.reduce((sum, { text }) => sum + [...text].length, 0);
    return {
      id,
      label,
      answers: own.length,
      meanCharacters: own.length === 0 ? null : characters / own.length,
      finishes: tally(own.map(({ finish }) => finish).filter((finish) => finish !== "stop")),
      identityLeaks: leaks.filter((words) => words.length > 0).length,
      leakWords: tally(leaks.flat()),
    };
  });
}

/** Counts by name, names sorted. */
function tally(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of [...names].sort()) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

const digest = (rows: readonly unknown[]): string =>
  createHash("sha256").update(toJsonLines(rows)).digest("hex");
