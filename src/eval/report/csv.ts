/** results.csv: one line a set and pair, for a spreadsheet or a plotting script. RFC 4180; shares, not percent. */
import type { HeadlineRow, Results } from "./results.ts";

const columns = [
  "analysis,set,system_a,system_b,prompts,votes,win,tie,loss,score,score_low,score_high,standard_error",
  "exceeds_or_ties,exceeds_or_ties_low,exceeds_or_ties_high,sign_test_p,holm_p,length_controlled_score",
].join(",");

export function resultsCsv(results: Results): string {
  const analyses: [string, readonly HeadlineRow[]][] = [
    ["main", results.headline],
    ["all raters", results.headlineAllRaters ?? results.headline],
    ...results.criteria.map(({ criterion, headline }): [string, HeadlineRow[]] => [
      `criterion ${criterion}`,
      headline,
    ]),
    ...results.judges.map(({ quality, headline }): [string, HeadlineRow[]] => [
      `judge ${quality.judge}`,
      headline,
    ]),
  ];
  const lines = analyses.flatMap(([analysis, rows]) => rows.map((row) => lineOf(analysis, row, results)));
  return `${[columns, ...lines].join("\r\n")}\r\n`;
}

function lineOf(analysis: string, { pair, set, rate, holmP }: HeadlineRow, results: Results): string {
  const pooled = set === results.sets.at(-1)!.set && analysis === "main";
  const control = results.length.find((entry) => entry.pair === pair)?.control;
  const controlled = pooled && control !== undefined && "score" in control ? control.score : null;
  const cells = [
    analysis,
    set,
    ...pair,
    rate.prompts,
    rate.votes,
    rate.win,
    rate.tie,
    rate.loss,
    rate.score,
    ...(rate.scoreInterval ?? [null, null]),
    rate.standardError,
    rate.exceedsOrTies,
    ...(rate.exceedsOrTiesInterval ?? [null, null]),
    rate.signTestP,
    holmP,
    controlled,
  ];
  return cells.map(cellOf).join(",");
}

const cellOf = (cell: string | number | null): string => {
  // A leading = + - @ in a name would run as a formula in a spreadsheet.
  const text =
    typeof cell === "string" ? cell.replace(/^(?=[=+\-@])/, "'") : cell === null ? "" : String(cell);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
