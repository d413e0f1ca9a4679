/** A study's folder: study.json, answers.jsonl, votes.jsonl and, where a judge was asked, judgements.jsonl.
 *  Always: a study that reads is whole: answers, votes and judgements name its own questions and systems. */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../util/errors.ts";
import type { Answer } from "./comparison.ts";
import { parseJson, readJsonLines, toJsonLines } from "./jsonl.ts";
import { readJudgements } from "./judgements_file.ts";
import { defaultRaterRule, type Pair, type StudyData, type StudyPlan } from "./study_data.ts";
import { readVotes, writeVotes } from "./votes_file.ts";

export async function readStudy(directory: string): Promise<StudyData> {
  const place = (name: string) => join(directory, name);
  for (const name of ["study.json", "answers.jsonl", "votes.jsonl"]) {
    if (!existsSync(place(name))) {
      throw new UsageError(
        `${directory} has no ${name}; a study folder holds study.json, answers.jsonl and votes.jsonl.`,
      );
    }
  }
  const judged = existsSync(place("judgements.jsonl"));
  const data: StudyData = {
    study: parsePlan(await readFile(place("study.json"), "utf8"), place("study.json")),
    answers: await readJsonLines(place("answers.jsonl"), answerSchema),
    votes: await readVotes(place("votes.jsonl")),
    judgements: judged ? await readJudgements(place("judgements.jsonl")) : [],
  };
  checkStudy(data, directory);
  return data;
}

/** The text of a study.json; `place` names it in errors. */
export const parsePlan = (text: string, place: string): StudyPlan => parseJson(text, planSchema, place);

/** Writes all but the judgements, which their judge appends one by one. */
export async function writeStudy(directory: string, data: StudyData): Promise<void> {
  await writeFile(join(directory, "study.json"), `${JSON.stringify(data.study, null, 2)}\n`);
  await writeFile(join(directory, "answers.jsonl"), toJsonLines(data.answers));
  await writeVotes(join(directory, "votes.jsonl"), data.votes);
}

/** Throws a UsageError that names the first stranger. */
export function checkStudy({ study, answers, votes, judgements }: StudyData, directory: string): void {
  const systems = new Set(study.systems.map(({ id }) => id));
  const sets = new Map(study.questions.map(({ id, set }) => [id, set]));
  const check = (kind: string, index: number, names: { question: string; systems: readonly string[] }) => {
    const stranger = names.systems.find((name) => !systems.has(name));
    if (stranger !== undefined || !sets.has(names.question)) {
      const what = stranger === undefined ? `the question ${names.question}` : `the system ${stranger}`;
      throw new UsageError(
        `${kind} ${index + 1} of ${directory} names ${what}, which study.json does not know.`,
      );
    }
  };
  const both = ({ systemA, systemB }: { systemA: string; systemB: string }) => [systemA, systemB];
  study.pairs.forEach((pair, index) => {
    if (study.questions.length > 0) {
      check("Pair", index, { question: study.questions[0]!.id, systems: [...pair] });
    }
  });
  answers.forEach((answer, index) => check("Answer", index, { ...answer, systems: [answer.system] }));
  votes.forEach((vote, index) => check("Vote", index, { ...vote, systems: both(vote) }));
  judgements.forEach((judgement, index) =>
    check("Judgement", index, { ...judgement, systems: both(judgement) }),
  );
}

const answerSchema: z.ZodType<Answer> = z.object({
  question: z.string(),
  system: z.string(),
  text: z.string(),
  finish: z.string().default("stop"),
});

const strings = z.record(z.string(), z.string());

const planSchema: z.ZodType<StudyPlan> = z.object({
  title: z.string(),
  questions: z.array(z.object({ id: z.string(), set: z.string(), text: z.string() })).min(1),
  systems: z
    .array(z.object({ id: z.string(), label: z.string().optional(), details: strings.default({}) }))
    .transform((systems) => systems.map((system) => ({ ...system, label: system.label ?? system.id }))),
  pairs: z.array(
    z.tuple([z.string(), z.string()]).refine((pair: Pair) => pair[0] !== pair[1], {
      message: "a system cannot be compared with itself",
    }),
  ),
  seed: z.number().int(),
  raterRule: z
    .object({ goldShareMin: z.number().min(0).max(1), medianDwellMsMin: z.number().nonnegative() })
    .default(defaultRaterRule),
  commands: z.array(z.string()).default([]),
  hashes: strings.default({}),
  topics: strings.default({}),
  leaks: z
    .array(z.object({ question: z.string(), rule: z.string(), score: z.number(), source: z.string() }))
    .nullable()
    .default(null),
  flags: z
    .array(z.object({ question: z.string(), system: z.string(), category: z.string(), note: z.string() }))
    .default([]),
});
