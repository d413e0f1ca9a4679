/** Reads the question sets of evaluations: Koala's 180, self-instruct's 252, Vicuna's 80, and own files.
 *  Always: ids are `<set>/<id>` and unique within a file; a record of another shape is an error with its line. */
import { basename } from "node:path";
import { z } from "zod";
import { UsageError } from "../util/errors.ts";
import { withoutPageCounter } from "./filters/page_counter.ts";

/** A question of an evaluation set. */
export interface Question {
  /** `<set>/<id>`. */
  id: string;
  set: string;
  text: string;
}

export const questionViews = ["raw", "clean"] as const;

export interface QuestionSetOptions {
  /** The set's name; the file's by default. */
  set?: string;
  /** clean: without the page counters (`2 / 2`) that scraping left before 13 of Koala's prompts. */
  view?: (typeof questionViews)[number];
}

/** Of a file of JSON lines, or of one JSON array. */
export async function readQuestions(path: string, options: QuestionSetOptions = {}): Promise<Question[]> {
  const file = Bun.file(path);
  if (!(await file.exists())) throw new UsageError(`There is no question file ${path}.`);
  const name = basename(path);
  const set = options.set ?? name.replace(/\.(jsonl?|txt)$/i, "");
  const clean = options.view === "clean" ? withoutPageCounter : (text: string): string => text;
  const questions = recordsOf(await file.text(), name).map(({ value, where }, index): Question => {
    const { id, text } = questionOf(value, where);
    return { id: `${set}/${id ?? index + 1}`, set, text: clean(text) };
  });
  if (questions.length === 0) throw new UsageError(`${name} holds no questions.`);
  const seen = new Set<string>();
  for (const { id } of questions) {
    if (seen.has(id)) throw new UsageError(`${name} holds two questions with the id ${id}; ids must differ.`);
    seen.add(id);
  }
  return questions;
}

const id = z.union([z.string().min(1), z.number()]).optional();
const text = z.string().refine((value) => value.trim() !== "", "is empty");

/** Each shape by its own key, the first that is there. `plain` says how the record becomes one text. */
const selfInstruct = z.object({
  id,
  instruction: text,
  instances: z.array(z.object({ input: z.string() })).min(1),
});
const vicuna = z.object({ question_id: id, turns: z.array(text).min(1) });
const alpaca = z.object({ id, instruction: text, input: z.string().optional() });

function questionOf(value: unknown, where: string): { id: string | number | undefined; text: string } {
  const keys = new Set(typeof value === "object" && value !== null ? Object.keys(value) : []);
  const parse = <T>(schema: z.ZodType<T>): T => {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const [issue] = result.error.issues;
    throw new UsageError(`${where}: ${issue?.path.join(".") || "the record"}: ${issue?.message}.`);
  };
  if (keys.has("turns")) {
    // Later turns refer to answers; a comparison of one prompt asks the first.
    const { question_id: questionId, turns } = parse(vicuna);
    return { id: questionId, text: turns[0]! };
  }
  if (keys.has("instances")) {
    const record = parse(selfInstruct);
    return { id: record.id, text: withInput(record.instruction, record.instances[0]!.input) };
  }
  if (keys.has("instruction")) {
    const record = parse(alpaca);
    return { id: record.id, text: withInput(record.instruction, record.input ?? "") };
  }
  for (const key of ["prompt", "question", "text"]) {
    if (!keys.has(key)) continue;
    const record = parse(z.object({ id, [key]: text }));
    return { id: record.id as string | number | undefined, text: record[key] as string };
  }
  throw new UsageError(
    `${where}: a question needs one of the keys prompt, question, text, instruction or turns; this has ${[...keys].join(", ") || "none"}.`,
  );
}

/** As AlpacaEval joins them: a blank line between task and input. */
const withInput = (instruction: string, input: string): string =>
  input.trim() === "" ? instruction : `${instruction}\n\n${input}`;

function recordsOf(content: string, name: string): { value: unknown; where: string }[] {
  const parse = (json: string, where: string): unknown => {
    try {
      return JSON.parse(json) as unknown;
    } catch (error) {
      throw new UsageError(`${where}: malformed JSON (${(error as Error).message}).`);
    }
  };
  const plain = content.replace(/^\uFEFF/, "");
  if (plain.trimStart().startsWith("[")) {
    const list = parse(plain, name) as unknown[];
    return list.map((value, index) => ({ value, where: `${name} record ${index + 1}` }));
  }
  return plain.split("\n").flatMap((line, index) => {
    const where = `${name} line ${index + 1}`;
    return line.trim() === "" ? [] : [{ value: parse(line, where), where }];
  });
}
