/** Studies as they were made: questions, answers and the items that raters compare. Nothing here changes afterwards.
 *  Always: a study is written whole or not at all, and the same study (by its hash) once. */
import { and, asc, eq } from "drizzle-orm";
import { newId } from "./ids.ts";
import type { Writer } from "./backend.ts";
import { isUniqueViolation } from "./errors.ts";
import type { Store } from "./store.ts";

export interface StoredStudy<Config = unknown> {
  id: string;
  title: string;
  sha256: string;
  secret: string;
  openHash: string;
  config: Config;
  createdAt: Date;
}

export interface StoredQuestion {
  question: string;
  set: string;
  text: string;
}

export interface StoredAnswer {
  id: string;
  question: string;
  system: string;
  text: string;
  finish: string;
  leaks: string[];
}

export interface StoredItem {
  id: string;
  question: string;
  systemA: string;
  systemB: string;
  /** Rows of study_answers. */
  answerA: string;
  answerB: string;
  kind: string;
  expected: string | null;
  firstLeft: string;
}

export const newStudyId = (): string => newId("study-");
export const newAnswerId = (): string => newId("answer-");
export const newItemId = (): string => newId("item-");

/** The study; where one with this hash is there already, that one, unchanged. */
export async function addStudy(
  store: Store,
  study: Omit<StoredStudy, "createdAt">,
  rows: {
    questions: readonly StoredQuestion[];
    answers: readonly StoredAnswer[];
    items: readonly StoredItem[];
  },
): Promise<StoredStudy> {
  const known = await findStudyByHash(store, study.sha256);
  if (known) return known;
  const { studies, studyQuestions, studyAnswers, studyItems } = store.tables;
  const studyId = study.id;
  try {
    await store.transaction(async (tx) => {
      await tx.insert(studies).values({ ...study, createdAt: new Date() });
      await insertAll(
        tx,
        studyQuestions,
        rows.questions.map((row) => ({ id: newId("question-"), studyId, ...row })),
      );
      await insertAll(
        tx,
        studyAnswers,
        rows.answers.map((row) => ({ studyId, ...row })),
      );
      await insertAll(
        tx,
        studyItems,
        rows.items.map((row) => ({ studyId, ...row })),
      );
    });
  } catch (error) {
    // Another process made the same study between the look and the write.
    if (!isUniqueViolation(error)) throw error;
  }
  return (await findStudyByHash(store, study.sha256))!;
}

type Table = Parameters<Writer["insert"]>[0];

/** In parts: databases limit the parameters of a statement (PostgreSQL 65 535). */
async function insertAll(tx: Writer, table: Table, rows: readonly Record<string, unknown>[]): Promise<void> {
  const size = 500;
  for (let i = 0; i < rows.length; i += size) await tx.insert(table).values(rows.slice(i, i + size) as never);
}

async function findStudyByHash(store: Store, sha256: string): Promise<StoredStudy | null> {
  const { studies } = store.tables;
  const [row] = await store.read.select().from(studies).where(eq(studies.sha256, sha256));
  return row ?? null;
}

export async function findStudy(store: Store, id: string): Promise<StoredStudy | null> {
  const { studies } = store.tables;
  const [row] = await store.read.select().from(studies).where(eq(studies.id, id));
  return row ?? null;
}

/** The one whose open invite code has this hash. */
export async function findOpenStudy(store: Store, openHash: string): Promise<StoredStudy | null> {
  const { studies } = store.tables;
  const [row] = await store.read.select().from(studies).where(eq(studies.openHash, openHash));
  return row ?? null;
}

/** The oldest first. */
export async function listStudies(store: Store): Promise<StoredStudy[]> {
  const { studies } = store.tables;
  return store.read.select().from(studies).orderBy(asc(studies.createdAt), asc(studies.id));
}

export async function studyItemsOf(store: Store, studyId: string): Promise<StoredItem[]> {
  const { studyItems } = store.tables;
  return store.read
    .select()
    .from(studyItems)
    .where(eq(studyItems.studyId, studyId))
    .orderBy(asc(studyItems.id));
}

export async function studyQuestionsOf(store: Store, studyId: string): Promise<StoredQuestion[]> {
  const { studyQuestions: table } = store.tables;
  return store.read.select().from(table).where(eq(table.studyId, studyId)).orderBy(asc(table.question));
}

export async function studyAnswersOf(store: Store, studyId: string): Promise<StoredAnswer[]> {
  const { studyAnswers: table } = store.tables;
  const rows = await store.read.select().from(table).where(eq(table.studyId, studyId));
  return rows.map((row) => ({ ...row, leaks: row.leaks as string[] }));
}

/** What is shown for an item: the question and the two texts. */
export async function itemTexts(
  store: Store,
  item: { studyId: string; question: string; answerA: string; answerB: string },
): Promise<{ question: string; a: StoredAnswer; b: StoredAnswer }> {
  const { studyQuestions, studyAnswers } = store.tables;
  const ofQuestion = and(
    eq(studyQuestions.studyId, item.studyId),
    eq(studyQuestions.question, item.question),
  );
  const [question] = await store.read.select().from(studyQuestions).where(ofQuestion);
  const answer = async (id: string): Promise<StoredAnswer> => {
    const [row] = await store.read.select().from(studyAnswers).where(eq(studyAnswers.id, id));
    return { ...row!, leaks: row!.leaks as string[] };
  };
  return { question: question!.text, a: await answer(item.answerA), b: await answer(item.answerB) };
}
