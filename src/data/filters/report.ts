/** What filters did, counted by rule, reason and source; and the same as a table of text. */
import type { Outcome } from "./filter.ts";

export interface FilterReport {
  input: number;
  output: number;
  rules: RuleCounts[];
}

export interface RuleCounts {
  rule: string;
  in: number;
  out: number;
  changed: number;
  dropped: number;
  /** How often each; a dialogue may have several changes and notes, and one reason. */
  reasons: Counts;
  changes: Counts;
  notes: Counts;
  sources: { [source: string]: { in: number; out: number; changed: number; dropped: number } };
  /** What the filter found out besides, such as the leakage of each question. */
  report?: unknown;
}

export interface Counts {
  [words: string]: number;
}

export const emptyCounts = (rule: string): RuleCounts => ({
  rule,
  in: 0,
  out: 0,
  changed: 0,
  dropped: 0,
  reasons: {},
  changes: {},
  notes: {},
  sources: {},
});

export function countOutcome(counts: RuleCounts, source: string, outcome: Outcome): void {
  const bySource = (counts.sources[source] ??= { in: 0, out: 0, changed: 0, dropped: 0 });
  for (const one of [counts, bySource]) {
    one.in++;
    if ("kept" in outcome) one.out += outcome.kept.length;
    if ("kept" in outcome && outcome.changes.length > 0) one.changed++;
    if ("dropped" in outcome) one.dropped++;
  }
  if ("dropped" in outcome) {
    bump(counts.reasons, outcome.dropped.reason);
    return;
  }
  for (const change of outcome.changes) bump(counts.changes, change);
  for (const note of outcome.notes ?? []) bump(counts.notes, note);
}

const bump = (counts: Counts, words: string): void => void (counts[words] = (counts[words] ?? 0) + 1);

/** Rules in their order, each with its reasons, changes and notes below it, the most frequent first. */
export function filterTable(report: FilterReport): string {
  const rows: string[][] = [["rule", "in", "changed", "dropped", "out"]];
  for (const rule of report.rules) {
    rows.push([rule.rule, rule.in, rule.changed, rule.dropped, rule.out].map(String));
    for (const [counts, column] of [
      [rule.reasons, 3],
      [rule.changes, 2],
      [rule.notes, 1],
    ] as const)
      for (const [words, count] of Object.entries(counts).toSorted(([, a], [, b]) => b - a)) {
        const row = [`  ${words}`, "", "", "", ""];
        row[column] = String(count);
        rows.push(row);
      }
  }
  rows.push(["all", String(report.input), "", "", String(report.output)]);
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const line = (row: string[]): string =>
    row.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  ");
  return rows.map((row) => line(row).trimEnd()).join("\n");
}
