/** Tasks from a file of JSON lines, three kinds told by their keys:
 *    {query, choices, gold}           multiple choice; gold is the right one's number from 0, or its text
 *    {query, continuation}            log-likelihood of one continuation (LAMBADA)
 *    {query, target, until?, max_tokens?}   generated up to `until`, compared letter for letter; target may be a list */
import { z } from "zod";
import { readJsonLines } from "../jsonl.ts";

const query = z.string();
const multipleChoice = z.strictObject({
  query,
  choices: z.array(z.string().min(1)).min(2),
  gold: z.union([z.int().min(0), z.string()]),
});
const continuation = z.strictObject({ query, continuation: z.string().min(1) });
const generation = z.strictObject({
  query,
  target: z.union([z.string(), z.array(z.string()).min(1)]),
  until: z.array(z.string().min(1)).max(16).optional(),
  max_tokens: z.int().min(1).optional(),
});

export type MultipleChoice = { query: string; choices: string[]; gold: number };
export type Continuation = z.infer<typeof continuation>;
export type Generation = { query: string; targets: string[]; until: string[]; maxTokens: number };

export type TaskFile =
  | { kind: "multiple_choice"; items: MultipleChoice[] }
  | { kind: "continuation"; items: Continuation[] }
  | { kind: "generation"; items: Generation[] };

/** As lm-evaluation-harness ends and limits an answer where the task does not. */
const usualEnd = ["\n\n"];
const usualTokens = 256;

/** Throws a UsageError with file and line. All lines of a file are of the kind of its first. */
export async function readTaskFile(path: string): Promise<TaskFile> {
  const kind = kindOf(await Bun.file(path).text());
  if (kind === "multiple_choice")
    return { kind, items: await readJsonLines(path, multipleChoice.transform(withGold)) };
  if (kind === "generation") return { kind, items: await readJsonLines(path, generation.transform(ended)) };
  return { kind, items: await readJsonLines(path, continuation) };
}

function kindOf(text: string): TaskFile["kind"] {
  const first = text.split("\n").find((line) => line.trim() !== "") ?? "";
  if (/"choices"\s*:/.test(first)) return "multiple_choice";
  return /"target"\s*:/.test(first) ? "generation" : "continuation";
}

function withGold(item: z.infer<typeof multipleChoice>, context: z.RefinementCtx): MultipleChoice {
  const gold = typeof item.gold === "number" ? item.gold : item.choices.indexOf(item.gold);
  if (gold < 0 || gold >= item.choices.length)
    context.addIssue({
      code: "custom",
      path: ["gold"],
      message: `${JSON.stringify(item.gold)} is none of the ${item.choices.length} choices`,
    });
  return { ...item, gold };
}

const ended = ({ query: asked, target, until, max_tokens }: z.infer<typeof generation>): Generation => ({
  query: asked,
  targets: typeof target === "string" ? [target] : target,
  until: until ?? usualEnd,
  maxTokens: max_tokens ?? usualTokens,
});
