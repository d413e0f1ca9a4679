/** Short ways to make dialogues for tests, and to run filters over them. */
import type { Dialogue, Drop } from "../../../src/data/dialogue.ts";
import type { Filter } from "../../../src/data/filters/filter.ts";
import { runFilters } from "../../../src/data/filters/pipeline.ts";
import { buildFilters, parseFilters, type FilterContext } from "../../../src/data/filters/registry.ts";
import type { FilterReport } from "../../../src/data/filters/report.ts";
import { contentText, type TrainingMessage } from "../../../src/data/record.ts";

const roles: { [letter: string]: string } = { u: "user", a: "assistant", s: "system" };

/** Turns as "u: text", "a: text", "s: text". */
export function dialogue(line: number, ...turns: string[]): Dialogue {
  const messages = turns.map((turn): TrainingMessage => ({
    role: roles[turn[0]!]!,
    content: turn.slice(turn.startsWith(": ", 1) ? 3 : 2),
  }));
  return {
    kind: "dialogue",
    id: `made/made.jsonl:${line}`,
    source: "made",
    file: "made.jsonl",
    line,
    licence: null,
    record: { kind: "chat", messages, tools: [] },
    marker: "positive",
    tags: {},
  };
}

/** One question and one answer. */
export const asked = (line: number, question: string, answer = "Yes."): Dialogue =>
  dialogue(line, `u: ${question}`, `a: ${answer}`);

export const textsOf = ({ record }: Dialogue): string[] => record.messages.map(contentText);

export interface Ran {
  kept: Dialogue[];
  drops: Drop[];
  report: FilterReport;
}

export async function run(
  input: Iterable<Dialogue> | AsyncIterable<Dialogue>,
  filters: readonly Filter[],
  workDirectory: string,
): Promise<Ran> {
  const kept: Dialogue[] = [];
  const drops: Drop[] = [];
  async function* stream(): AsyncGenerator<Dialogue> {
    yield* input;
  }
  const sinks = {
    kept: (one: Dialogue) => void kept.push(one),
    dropped: (drop: Drop) => void drops.push(drop),
  };
  const report = await runFilters(stream(), filters, sinks, { workDirectory });
  return { kept, drops, report };
}

export async function filtersOf(tables: unknown[], context: Partial<FilterContext> = {}): Promise<Filter[]> {
  return buildFilters(parseFilters(tables), { seed: 1, directory: "/", ...context });
}
