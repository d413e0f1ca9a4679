/** A composition as a table of text and as one HTML page that needs nothing else: no script, no network. */
import { totalRow, type Composition, type CompositionRow } from "./composition.ts";

const columns: readonly [head: string, value: (row: CompositionRow, all: CompositionRow) => string][] = [
  ["source", ({ source }) => source],
  ["dialogues", ({ dialogues }) => count(dialogues)],
  ["examples", ({ examples }) => count(examples)],
  ["tokens", ({ tokens }) => count(tokens)],
  ["trained tokens", ({ trainedTokens }) => count(trainedTokens)],
  ["share of trained", ({ trainedTokens }, all) => percent(trainedTokens, all.trainedTokens)],
  ["negative examples", ({ negativeExamples, examples }) => percent(negativeExamples, examples)],
  [
    "negative of trained",
    ({ negativeTrainedTokens, trainedTokens }) => percent(negativeTrainedTokens, trainedTokens),
  ],
  ["kept for evaluation", ({ evalDialogues }) => count(evalDialogues)],
  ["refused", ({ refused }) => count(refused)],
];

export function compositionText({ rows }: Composition): string {
  const all = totalRow(rows);
  const table = [
    columns.map(([head]) => head),
    ...[...rows, all].map((row) => columns.map(([, value]) => value(row, all))),
  ];
  const widths = columns.map((_, i) => Math.max(...table.map((row) => row[i]!.length)));
  return table
    .map((row) =>
      row.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  "),
    )
    .join("\n");
}

export function compositionPage({ name, rows }: Composition): string {
  const all = totalRow(rows);
  const cells = (row: CompositionRow): string =>
    columns
      .map(([, value], i) => (i === 0 ? `<th scope="row">` : "<td>") + escaped(value(row, all)))
      .join("");
  const body = rows.map((row) => `<tr>${cells(row)}`).join("\n");
  const licences = rows
    .map(({ source, licence }) => `<li>${escaped(source)}: ${escaped(licence.join(", ") || "none stated")}`)
    .join("\n");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Data of ${escaped(name)}</title>
<style>
:root { color-scheme: light dark; --bar: #2f6fb2; --negative: #c2622d; }
@media (prefers-color-scheme: dark) { :root { --bar: #6ba4e0; --negative: #e58d57; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent); }
th:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
tfoot { font-weight: 600; }
figure { margin: 1.5rem 0; overflow-x: auto; }
svg { display: block; width: 100%; min-width: 36rem; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
</style>
<h1>Data of ${escaped(name)}</h1>
<p>${count(all.examples)} examples of ${count(all.dialogues)} dialogues, ${count(all.tokens)} tokens, of which ${count(all.trainedTokens)} are trained on; ${percent(all.negativeTrainedTokens, all.trainedTokens)} of those stand behind the negative marker. Copies and both sides of pairs are counted as examples.
<figure>${bars(rows)}<figcaption>Trained tokens of each source; the part behind the negative marker is orange.</figcaption></figure>
<div class="wide"><table>
<thead><tr>${columns.map(([head]) => `<th scope="col">${head}`).join("")}
<tbody>
${body}
<tfoot><tr>${cells(all)}
</table></div>
<h2>Licences</h2>
<ul>
${licences}
</ul>
</html>
`;
}

function bars(rows: readonly CompositionRow[]): string {
  const most = Math.max(1, ...rows.map(({ trainedTokens }) => trainedTokens));
  const [left, right, step] = [150, 110, 26];
  const room = 900 - left - right;
  const parts = rows.map(({ source, trainedTokens, negativeTrainedTokens }, i) => {
    const y = 4 + i * step;
    const width = (tokens: number): string => ((room * tokens) / most).toFixed(1);
    const good = trainedTokens - negativeTrainedTokens;
    return `<text x="${left - 8}" y="${y + 14}" text-anchor="end">${escaped(source)}</text><rect x="${left}" y="${y}" width="${width(good)}" height="18" fill="var(--bar)"/><rect x="${left + Number(width(good))}" y="${y}" width="${width(negativeTrainedTokens)}" height="18" fill="var(--negative)"/><text x="${left + Number(width(trainedTokens)) + 8}" y="${y + 14}">${count(trainedTokens)}</text>`;
  });
  return `<svg viewBox="0 0 900 ${8 + rows.length * step}" role="img" aria-label="Trained tokens of each source">${parts.join("\n")}</svg>`;
}

const count = (value: number): string => value.toLocaleString("en-US");
const percent = (part: number, whole: number): string =>
  whole === 0 ? "–" : `${((100 * part) / whole).toFixed(1)} %`;

export const escaped = (text: string): string =>
  text.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`);
