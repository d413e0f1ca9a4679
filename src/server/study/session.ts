/** A rater at work: the next item, the vote on it, the way back, the end.
 *  Always: what leaves here speaks of left and right; systems, kinds of items and right verdicts stay in the database. */
import { planSession, type Met, type OpenItem } from "../../eval/assignment.ts";
import type { Verdict } from "../../eval/comparison.ts";
import type { Store } from "../../store/store.ts";
import { findOpenStudy, findStudy, itemTexts, type StoredItem } from "../../store/studies.ts";
import { codeHash, findRater, type StoredRater } from "../../store/study_raters.ts";
import {
  addVotes,
  assignmentsOf,
  countPresses,
  findAssignment,
  giveAssignments,
  lastVotes,
  markSeen,
  markShown,
  type StoredAssignment,
} from "../../store/study_votes.ts";
import { RequestError } from "../../util/errors.ts";
import { completionCode } from "./codes.ts";
import type { Study } from "./import_study.ts";

export type Choice = "left" | "right" | "tie" | "both_bad";

/** Whom a code lets in: a rater, or with the open code anybody (then there is no rater yet). */
export async function admit(
  store: Store,
  code: string,
): Promise<{ study: Study; rater: StoredRater | null }> {
  const hash = codeHash(code);
  const rater = await findRater(store, hash);
  const study = rater ? await findStudy(store, rater.studyId) : await findOpenStudy(store, hash);
  if (study) return { study: study as Study, rater };
  throw new RequestError("This link leads to no study. Check that the whole link was copied.", {
    status: 404,
    code: "unknown_code",
  });
}

export interface RaterSession {
  study: Study;
  rater: StoredRater;
}

/** A rater who has agreed to take part. */
export async function admitRater(store: Store, code: string): Promise<RaterSession> {
  const { study, rater } = await admit(store, code);
  if (rater !== null && rater.consentAt !== null) return { study, rater };
  throw new RequestError("Agree to take part first, on the study's first page.", {
    status: 403,
    code: "no_consent",
    type: "permission_error",
  });
}

export interface Task {
  id: string;
  number: number;
  question: string;
  left: string;
  right: string;
  /** So long the item is to be looked at, from now on. */
  wait_ms: number;
  /** What the rater said, where this was voted on before. */
  vote: TaskVote | null;
}

export interface TaskVote {
  choice: Choice;
  criteria: Record<string, Choice>;
  note: string | null;
}

export interface Progress {
  done: number;
  total: number;
}

/** null: nothing is left for this rater. */
export async function nextTask(
  store: Store,
  session: RaterSession,
): Promise<{ task: Task | null; progress: Progress }> {
  const { rater } = session;
  await markSeen(store, rater.id);
  let own = await assignmentsOf(store, rater.id);
  if (own.every(({ votedAt }) => votedAt !== null)) {
    await drawMore(store, session);
    own = await assignmentsOf(store, rater.id);
  }
  const next = own.find(({ votedAt }) => votedAt === null);
  const progress = progressOf(own);
  return { task: next === undefined ? null : await openTask(store, session, next.id), progress };
}

export const progressOf = (own: readonly StoredAssignment[]): Progress => ({
  done: own.filter(({ votedAt }) => votedAt !== null).length,
  total: own.length,
});

async function drawMore(store: Store, { study, rater }: RaterSession): Promise<void> {
  const { config } = study;
  await giveAssignments(store, rater, {
    awaySince: new Date(Date.now() - config.awayMinutes * 60_000),
    plan: ({ items, assignments }) => {
      const met = assignments.filter(({ raterId }) => raterId === rater.id).map(metOf);
      const stream = `${rater.id} ${met.length}`;
      return planSession({ ...config, items: openItems(items, assignments), met, stream });
    },
  });
}

const metOf = ({ itemId, kind, left }: StoredAssignment): Met =>
  ({ itemId, kind, left }) as Met; /* both columns are written from the planner's own values */

function openItems(items: readonly StoredItem[], assignments: readonly StoredAssignment[]): OpenItem[] {
  const open = new Map<string, OpenItem>();
  for (const { id, question, systemA, systemB, kind, firstLeft } of items) {
    const own = { kind, firstLeft } as Pick<OpenItem, "kind" | "firstLeft">;
    open.set(id, { id, question, systemA, systemB, ...own, onLeft: { a: 0, b: 0 } });
  }
  for (const { itemId, kind, left } of assignments)
    if (kind !== "repeat") open.get(itemId)!.onLeft[left === "a" ? "a" : "b"]++;
  return [...open.values()];
}

/** An assignment as the rater sees it, now or again. */
export async function openTask(store: Store, session: RaterSession, id: string): Promise<Task> {
  const { study, rater } = session;
  const { assignment, item } = await assignmentOf(store, { id, raterId: rater.id });
  const { question, a, b } = await itemTexts(store, item);
  const shownAt = await markShown(store, assignment);
  const [left, right] = assignment.left === "a" ? [a, b] : [b, a];
  const waitMs = Math.max(0, shownAt.getTime() + study.config.minDwellMs - Date.now());
  return {
    id: assignment.id,
    number: assignment.number + 1,
    question,
    left: left.text,
    right: right.text,
    wait_ms: assignment.votedAt === null ? waitMs : 0,
    vote: await voteOf(store, assignment),
  };
}

async function voteOf(store: Store, assignment: StoredAssignment): Promise<TaskVote | null> {
  if (assignment.votedAt === null) return null;
  const votes = await lastVotes(store, { studyId: assignment.studyId, assignmentId: assignment.id });
  const vote: TaskVote = { choice: "tie", criteria: {}, note: null };
  for (const { criterion, verdict, note } of votes) {
    const choice = choiceOf(verdict as Verdict, assignment.left);
    if (criterion === "overall") Object.assign(vote, { choice, note });
    else vote.criteria[criterion] = choice;
  }
  return vote;
}

/** The session's own assignment; else 404. */
export async function assignmentOf(store: Store, of: { id: string; raterId: string }) {
  const found = await findAssignment(store, of);
  if (found && found.assignment.shownAt !== null) return found;
  if (found && found.assignment.expiredAt === null) return found;
  throw new RequestError("There is no such item for you. Load the page again.", {
    status: 404,
    code: "unknown_item",
  });
}

export interface Press {
  item: string;
  choice: Choice;
  criteria: Record<string, Choice>;
  note: string | null;
  /** As the page measured it, while it was to be seen. */
  dwellMs: number | null;
}

/** Stores the vote, or the correction of an earlier one. */
export async function vote(store: Store, session: RaterSession, press: Press): Promise<Progress> {
  const { study, rater } = session;
  const { assignment } = await assignmentOf(store, { id: press.item, raterId: rater.id });
  checkCriteria(study, press);
  const elapsed = Date.now() - (assignment.shownAt?.getTime() ?? Date.now());
  if (assignment.votedAt === null) await checkPace(store, session, elapsed);
  const dwellMs = Math.min(elapsed, press.dwellMs ?? elapsed);
  const verdict = (choice: Choice): Verdict => verdictOf(choice, assignment.left);
  await addVotes(store, assignment, [
    { criterion: "overall", verdict: verdict(press.choice), dwellMs, note: press.note },
    ...Object.entries(press.criteria).map(([criterion, choice]) => ({
      criterion,
      verdict: verdict(choice),
      dwellMs,
      note: null,
    })),
  ]);
  await markSeen(store, rater.id);
  return progressOf(await assignmentsOf(store, rater.id));
}

function checkCriteria({ config }: Study, { criteria }: Press): void {
  const known = config.criteria.map(({ name }) => name);
  const strange = Object.keys(criteria).find((name) => !known.includes(name));
  if (strange === undefined) return;
  throw new RequestError(
    `This study has no criterion ${JSON.stringify(strange.slice(0, 100))}; it has ${known.join(", ") || "none"}.`,
    { param: "criteria", code: "invalid_value" },
  );
}

async function checkPace(store: Store, { study, rater }: RaterSession, elapsed: number): Promise<void> {
  const { minDwellMs, votesPerMinute } = study.config;
  if (elapsed < minDwellMs)
    throw new RequestError("Please read both answers before you vote.", {
      status: 429,
      code: "too_soon",
      retryAfterMs: minDwellMs - elapsed,
    });
  const presses = await countPresses(store, rater.id, new Date(Date.now() - 60_000));
  if (presses >= votesPerMinute)
    throw new RequestError(
      `That is more than ${votesPerMinute} votes in a minute. Take a breath, then go on.`,
      { status: 429, code: "too_fast", retryAfterMs: 10_000 },
    );
}

export interface Completion {
  code: string;
  url: string | null;
  submit: { url: string; fields: Record<string, string> } | null;
}

/** 409 while there is something left to do. */
export async function completion(store: Store, session: RaterSession): Promise<Completion> {
  const { study, rater } = session;
  const { task, progress } = await nextTask(store, session);
  if (task !== null)
    throw new RequestError(`${progress.total - progress.done} items are still to be rated.`, {
      status: 409,
      code: "not_done",
    });
  const code = completionCode(study, rater.id);
  const url = study.config.completionUrl?.replaceAll("{code}", encodeURIComponent(code)) ?? null;
  const submit = rater.submit && {
    url: rater.submit.url,
    fields: { ...rater.submit.fields, completionCode: code, votes: String(progress.done) },
  };
  return { code, url, submit };
}

const verdictOf = (choice: Choice, left: string): Verdict =>
  choice === "left" ? (left as "a" | "b") : choice === "right" ? (left === "a" ? "b" : "a") : choice;

const choiceOf = (verdict: Verdict, left: string): Choice =>
  verdict === "a" || verdict === "b" ? (verdict === left ? "left" : "right") : verdict;
