/** Votes in the formats of other programs: preference pairs for training, Chatbot Arena's battles, Label Studio's tasks. */
import type { Vote } from "./comparison.ts";

/** A vote with what was judged. */
export interface ShownVote extends Vote {
  prompt: string;
  answerA: string;
  answerB: string;
}

export const voteFormats = ["votes", "pairs", "arena", "label-studio"] as const;
export type VoteFormat = (typeof voteFormats)[number];

/** The file's text: lines of JSON, but for label-studio, which imports one JSON array. */
export function formatVotes(votes: readonly ShownVote[], format: VoteFormat): string {
  if (format === "label-studio") return `${JSON.stringify(labelStudioTasks(votes), null, 2)}\n`;
  const rows =
    format === "pairs"
      ? preferencePairs(votes)
      : format === "arena"
        ? arenaBattles(votes)
        : votes.map(plainVote);
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

/** Without the texts. */
export function plainVote(shown: ShownVote): Vote {
  const vote: Partial<ShownVote> = { ...shown };
  for (const text of ["prompt", "answerA", "answerB"] as const) delete vote[text];
  return vote as Vote;
}

export interface PreferencePair {
  prompt: string;
  chosen: string;
  rejected: string;
}

/** One pair for each question and pair of systems on which a majority of the raters, ties apart, prefers one answer.
 *  Only overall verdicts of real items: attention checks and repeats say nothing about a model. */
export function preferencePairs(votes: readonly ShownVote[]): PreferencePair[] {
  const items = new Map<string, { vote: ShownVote; margin: number }>();
  for (const vote of votes) {
    if (vote.kind !== "real" || vote.criterion !== "overall") continue;
    const key = JSON.stringify([vote.question, vote.systemA, vote.systemB]);
    const item = items.get(key) ?? { vote, margin: 0 };
    item.margin += vote.verdict === "a" ? 1 : vote.verdict === "b" ? -1 : 0;
    items.set(key, item);
  }
  return [...items.values()].flatMap(({ vote: { prompt, answerA, answerB }, margin }) => {
    if (margin === 0 || answerA === answerB) return [];
    const [chosen, rejected] = margin > 0 ? [answerA, answerB] : [answerB, answerA];
    return [{ prompt, chosen, rejected }];
  });
}

/** The fields of LMSYS' released battles (`question_id, model_a, model_b, winner, judge, conversation_a, …`), and `left`. */
function arenaBattles(votes: readonly ShownVote[]): object[] {
  return votes.filter(isReal).map((vote) => {
    const turn = (answer: string) => [
      { content: vote.prompt, role: "user" },
      { content: answer, role: "assistant" },
    ];
    return {
      question_id: vote.question,
      model_a: vote.systemA,
      model_b: vote.systemB,
      winner: { a: "model_a", b: "model_b", tie: "tie", both_bad: "tie (bothbad)" }[vote.verdict],
      judge: vote.rater,
      conversation_a: turn(vote.answerA),
      conversation_b: turn(vote.answerB),
      turn: 1,
      anony: true,
      tstamp: vote.time / 1000,
      left: vote.left === "a" ? "model_a" : "model_b",
    };
  });
}

/** For `<Pairwise name="verdict" toName="left,right">`: one task for a vote, since sides are a rater's own. */
function labelStudioTasks(votes: readonly ShownVote[]): object[] {
  return votes.filter(isReal).map((vote) => {
    const [left, right] = vote.left === "a" ? [vote.answerA, vote.answerB] : [vote.answerB, vote.answerA];
    const decided = vote.verdict === "a" || vote.verdict === "b";
    const selected = vote.verdict === vote.left ? "left" : "right";
    const name = { from_name: "verdict", to_name: "left,right" };
    const result = decided
      ? { ...name, type: "pairwise", value: { selected } }
      : { ...name, from_name: "undecided", type: "choices", value: { choices: [vote.verdict] } };
    const systems = { left: vote.left === "a" ? vote.systemA : vote.systemB };
    return {
      data: { prompt: vote.prompt, left, right },
      meta: {
        question: vote.question,
        left_system: systems.left,
        system_a: vote.systemA,
        system_b: vote.systemB,
      },
      annotations: [{ result: [result], completed_by: vote.rater, lead_time: (vote.dwellMs ?? 0) / 1000 }],
    };
  });
}

const isReal = ({ kind, criterion }: ShownVote): boolean => kind === "real" && criterion === "overall";
