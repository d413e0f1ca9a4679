/** A blind comparison into the database: questions, answers and the items that raters will see.
 *  Always: the same input is the same study, however often it is imported; answers that ended in an error are never shown. */
import { createHash } from "node:crypto";
import { planItems, quotaOf } from "../../eval/assignment.ts";
import type { Answer, Question } from "../../eval/comparison.ts";
import { identityLeaks } from "../../eval/identity_leak.ts";
import {
  addStudy,
  newAnswerId,
  newItemId,
  newStudyId,
  type StoredAnswer,
  type StoredItem,
  type StoredStudy,
} from "../../store/studies.ts";
import type { Store } from "../../store/store.ts";
import { UsageError } from "../../util/errors.ts";
import { newSecret, openHashOf } from "./codes.ts";

export interface StudyInput {
  title: string;
  questions: readonly Question[];
  systems: readonly string[];
  answers: readonly Answer[];
  /** Of systems, the first one's scores are reported. */
  pairs: readonly (readonly [string, string])[];
  /** How many raters each item gets. */
  ratings: number;
  /** How many raters are expected: so many share the work evenly. */
  raters: number;
  goldShare: number;
  repeatShare: number;
  /** What is asked besides which answer is better overall. */
  criteria: readonly Criterion[];
  seed: number;
  /** Items with an answer that tells its author are left out; otherwise they are only counted. */
  dropLeaks?: boolean;
  instructions?: string;
  /** What a rater agrees to before the first item. */
  consent?: string;
  /** No vote before an item was seen this long. */
  minDwellMs?: number;
  votesPerMinute?: number;
  /** Whoever was away this long without a vote gives the items back. */
  awayMinutes?: number;
  /** Where a rater goes at the end; {code} becomes the completion code. */
  completionUrl?: string | null;
}

export interface Criterion {
  /** In files and votes. */
  name: string;
  /** As a rater reads it: "Which answer is more correct?" */
  question: string;
}

/** What the study's row keeps: all but the texts. */
export interface StudyConfig {
  systems: readonly string[];
  pairs: readonly (readonly [string, string])[];
  ratings: number;
  /** Real items for one rater. */
  quota: number;
  goldShare: number;
  repeatShare: number;
  criteria: readonly Criterion[];
  seed: number;
  instructions: string;
  consent: string;
  minDwellMs: number;
  votesPerMinute: number;
  awayMinutes: number;
  completionUrl: string | null;
}

export type Study = StoredStudy<StudyConfig>;

const defaults = {
  instructions:
    "You will see a question and two answers to it. Read both, then say which one is better, or that they are equally good, or that both are bad. Judge what the answer says and how well it helps whoever asked; length alone is no merit. Links in answers need not be followed.",
  consent:
    "Your votes, notes and the time each took are stored under a random code, without your name or address, and may be published. You may stop at any time.",
  minDwellMs: 3000,
  votesPerMinute: 10,
  awayMinutes: 60,
  completionUrl: null,
  dropLeaks: false,
};

export async function importStudy(store: Store, input: StudyInput): Promise<Study> {
  const given = { ...defaults, ...input };
  checkInput(given);
  const sha256 = createHash("sha256").update(JSON.stringify(given)).digest("hex");
  const answers = given.answers.map((answer) => storedAnswer(answer, given));
  const items = itemsOf(given, answers);
  const realCount = items.filter(({ kind }) => kind === "real").length;
  if (realCount === 0)
    throw new UsageError(
      `The study ${JSON.stringify(given.title)} has nothing to compare: no question has an answer of both systems of a pair.`,
    );
  const { title, questions: _, answers: __, raters, dropLeaks: ___, ...rest } = given;
  const config: StudyConfig = { ...rest, quota: quotaOf(realCount, given.ratings, raters) };
  const secret = newSecret();
  const study = { id: newStudyId(), title, sha256, secret, openHash: openHashOf(secret), config };
  const questions = given.questions.map(({ id, set, text }) => ({ question: id, set, text }));
  return (await addStudy(store, study, { questions, answers, items })) as Study;
}

function checkInput(input: StudyInput): void {
  const systems = new Set(input.systems);
  for (const [a, b] of input.pairs)
    if (a === b || !systems.has(a) || !systems.has(b))
      throw new UsageError(
        `The pair ${a}, ${b} must name two different systems of ${input.systems.join(", ")}.`,
      );
  if (!(Number.isInteger(input.ratings) && input.ratings >= 1))
    throw new UsageError(`An item gets at least one rating, not ${input.ratings}.`);
  for (const name of ["goldShare", "repeatShare"] as const)
    if (!(input[name] >= 0 && input[name] <= 1))
      throw new UsageError(`${name} must lie between 0 and 1, but is ${input[name]}.`);
  if (input.criteria.some(({ name }) => name === "overall"))
    throw new UsageError("The criterion overall is always asked. Give the others names of their own.");
  refuseDoubles(
    input.questions.map(({ id }) => id),
    "The question",
  );
  refuseDoubles(
    input.answers.map(({ question, system }) => `${question} by ${system}`),
    "The answer to",
  );
}

function refuseDoubles(names: readonly string[], what: string): void {
  const seen = new Set<string>();
  for (const name of names) {
    if (seen.has(name)) throw new UsageError(`${what} ${name} is there twice. Keep one.`);
    seen.add(name);
  }
}

function storedAnswer(answer: Answer, { systems, questions }: StudyInput): StoredAnswer {
  const prompt = questions.find(({ id }) => id === answer.question)?.text ?? "";
  return { id: newAnswerId(), ...answer, leaks: identityLeaks(answer.text, { systems, prompt }) };
}

function itemsOf(input: StudyInput, answers: readonly StoredAnswer[]): StoredItem[] {
  const key = (place: { question: string; system: string }): string =>
    JSON.stringify([place.question, place.system]);
  const shown = answers.filter(
    ({ finish, text, leaks }) =>
      finish !== "error" && text.trim() !== "" && !(input.dropLeaks && leaks.length > 0),
  );
  const ids = new Map(shown.map((answer) => [key(answer), answer.id]));
  const plan = { ...input, isAnswered: (place: { question: string; system: string }) => ids.has(key(place)) };
  return planItems(plan).map(({ answers: places, ...item }) => ({
    id: newItemId(),
    ...item,
    answerA: ids.get(key(places.a))!,
    answerB: ids.get(key(places.b))!,
  }));
}
