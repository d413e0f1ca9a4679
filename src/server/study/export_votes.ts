/** A study's votes as everything else reads them: statistics, reports, training. */
import type { Verdict, Vote } from "../../eval/comparison.ts";
import type { Store } from "../../store/store.ts";
import { studyAnswersOf, studyItemsOf, studyQuestionsOf, type StoredItem } from "../../store/studies.ts";
import { lastVotes, votedAssignments, type StoredVote } from "../../store/study_votes.ts";
import { votedBattles, type StoredBattle } from "../../store/battles.ts";
import { plainVote, type ShownVote } from "../../eval/vote_formats.ts";

/** The votes that count: the last of each rater, item and criterion, in the order of time. */
export const exportVotes = async (store: Store, studyId: string): Promise<Vote[]> =>
  (await exportShownVotes(store, studyId)).map(plainVote);

/** With the texts that were judged. */
export async function exportShownVotes(store: Store, studyId: string): Promise<ShownVote[]> {
  const [votes, assignments, items, questions, answers] = await Promise.all([
    lastVotes(store, { studyId }),
    votedAssignments(store, studyId),
    studyItemsOf(store, studyId),
    studyQuestionsOf(store, studyId),
    studyAnswersOf(store, studyId),
  ]);
  const assignmentById = new Map(assignments.map((row) => [row.id, row]));
  const itemById = new Map(items.map((row) => [row.id, row]));
  const questionById = new Map(questions.map((row) => [row.question, row]));
  const textById = new Map(answers.map((row) => [row.id, row.text]));
  const shown = votes.flatMap((vote): ShownVote[] => {
    const assignment = assignmentById.get(vote.assignmentId);
    if (assignment === undefined) return [];
    const item = itemById.get(assignment.itemId)!;
    const question = questionById.get(item.question)!;
    const texts = { answerA: textById.get(item.answerA)!, answerB: textById.get(item.answerB)! };
    const given = voteOf(vote, item);
    const { raterId: rater, kind, left } = assignment;
    const who = { rater, kind, left } as Pick<Vote, "rater" | "kind" | "left">;
    return [{ ...given, ...who, set: question.set, prompt: question.text, ...texts }];
  });
  return shown.toSorted(
    (x, y) => x.time - y.time || compare(x.rater, y.rater) || compare(x.question, y.question),
  );
}

const compare = (x: string, y: string): number => (x < y ? -1 : x > y ? 1 : 0);

function voteOf(vote: StoredVote, item: StoredItem): Omit<Vote, "set" | "rater" | "kind" | "left"> {
  return {
    question: item.question,
    systemA: item.systemA,
    systemB: item.systemB,
    verdict: vote.verdict as Verdict,
    expected: item.expected as Verdict | null,
    criterion: vote.criterion,
    dwellMs: vote.dwellMs,
    note: vote.note,
    time: vote.createdAt.getTime(),
  };
}

/** The arena's votes, as votes of the set "arena". Battles with a fault or an answer that told its author are left out. */
export async function exportBattles(store: Store): Promise<ShownVote[]> {
  return (await votedBattles(store)).filter((battle) => !isMarked(battle)).map(shownBattle);
}

export const isMarked = ({ leaks, finishA, finishB }: StoredBattle): boolean =>
  leaks.length > 0 || [finishA, finishB].some((finish) => finish === "error" || finish === "abort");

const shownBattle = (battle: StoredBattle): ShownVote => ({
  question: `arena/${battle.id}`,
  set: "arena",
  systemA: battle.systemA,
  systemB: battle.systemB,
  verdict: battle.verdict as Verdict,
  left: battle.left as "a" | "b",
  rater: battle.rater,
  kind: "real",
  expected: null,
  criterion: "overall",
  dwellMs: battle.dwellMs,
  note: null,
  time: battle.votedAt!.getTime(),
  prompt: battle.prompt,
  answerA: battle.answerA,
  answerB: battle.answerB,
});
