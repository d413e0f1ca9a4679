/** votes.jsonl: Chatbot Arena's keys (question_id, model_a, model_b, winner, judge, turn, anony, tstamp) and ours beside them,
 *  so that Arena's tools read our votes and we read theirs. Always: what was written reads back the same, bit for bit. */
import { writeFile } from "node:fs/promises";
import { z } from "zod";
import type { Verdict, Vote } from "./comparison.ts";
import { readJsonLines, toJsonLines } from "./jsonl.ts";

/** A wrong row is a UsageError with its line. */
export async function readVotes(path: string): Promise<Vote[]> {
  return (await readJsonLines(path, row)).map(voteOf);
}

export async function writeVotes(path: string, votes: readonly Vote[]): Promise<void> {
  await writeFile(path, toJsonLines(votes.map(rowOf)));
}

const winners = ["model_a", "model_b", "tie", "tie (bothbad)"] as const;
const winner = z.enum(winners);

/** Arena puts model_a on the left and knows no sets, kinds or dwell times: those have defaults. */
const row = z
  .looseObject({
    question_id: z.string().min(1),
    model_a: z.string().min(1),
    model_b: z.string().min(1),
    winner,
    judge: z.string().min(1),
    tstamp: z.number(),
    left: z.enum(["model_a", "model_b"]).default("model_a"),
    set: z.string().nullish(),
    kind: z.enum(["real", "gold", "repeat"]).default("real"),
    expected: winner.nullable().default(null),
    criterion: z.string().default("overall"),
    dwell_ms: z.number().nonnegative().nullable().default(null),
    note: z.string().nullable().default(null),
  })
  .refine((vote) => vote.model_a !== vote.model_b, {
    message: "a system cannot be compared with itself",
    path: ["model_b"],
  })
  .refine((vote) => vote.kind !== "gold" || vote.expected !== null, {
    message: "a gold needs the verdict that is expected",
    path: ["expected"],
  });

const verdicts: Record<(typeof winners)[number], Verdict> = {
  model_a: "a",
  model_b: "b",
  tie: "tie",
  "tie (bothbad)": "both_bad",
};

const winnerOf = (verdict: Verdict): (typeof winners)[number] =>
  winners.find((name) => verdicts[name] === verdict)!;

const voteOf = (vote: z.infer<typeof row>): Vote => ({
  question: vote.question_id,
  set: vote.set ?? setOf(vote.question_id),
  systemA: vote.model_a,
  systemB: vote.model_b,
  verdict: verdicts[vote.winner],
  left: vote.left === "model_a" ? "a" : "b",
  rater: vote.judge,
  kind: vote.kind,
  expected: vote.expected === null ? null : verdicts[vote.expected],
  criterion: vote.criterion,
  dwellMs: vote.dwell_ms,
  note: vote.note,
  time: Math.round(vote.tstamp * 1000),
});

/** "koala/12" -> "koala" */
const setOf = (question: string): string => (question.includes("/") ? question.split("/")[0]! : "all");

const rowOf = (vote: Vote) => ({
  question_id: vote.question,
  model_a: vote.systemA,
  model_b: vote.systemB,
  winner: winnerOf(vote.verdict),
  judge: vote.rater,
  turn: 1,
  anony: true,
  tstamp: vote.time / 1000,
  left: vote.left === "a" ? "model_a" : "model_b",
  set: vote.set,
  kind: vote.kind,
  expected: vote.expected === null ? null : winnerOf(vote.expected),
  criterion: vote.criterion,
  dwell_ms: vote.dwellMs,
  note: vote.note,
});
