/** A leakage report as one HTML page that needs nothing else: each question that leaks beside the training texts it stands in,
 *  then the closest text of every other question. Always: what the data says is text of the page, never markup. */
import { escaped } from "../composition_page.ts";
import type { LeakRule } from "./leak_index.ts";
import type { Closest, LeakReport, LeakRow } from "./leak_report.ts";

export function leakPage({ questions, leaked, dialogues, rows }: LeakReport): string {
  const leaks = rows.filter((row) => row.leaks).toSorted((a, b) => worst(b) - worst(a));
  const rest = rows.filter((row) => !row.leaks).toSorted((a, b) => worst(b) - worst(a));
  const met = rest.filter(({ closest }) => Object.keys(closest).length > 0);
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Evaluation questions in training data</title>
<style>
:root { color-scheme: light dark; --leak: #b3261e; --line: color-mix(in srgb, currentColor 18%, transparent); }
@media (prefers-color-scheme: dark) { :root { --leak: #f2938c; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
article { border-top: 1px solid var(--line); padding: .8rem 0; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: 11rem 1fr; gap: .3rem 1rem; margin: .5rem 0 0; }
dt { font-variant-numeric: tabular-nums; }
dd { margin: 0; }
dd small { display: block; opacity: .8; }
.leak { color: var(--leak); font-weight: 600; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; } }
</style>
<h1>Evaluation questions in training data</h1>
<p>${leaked} of ${questions} questions leak, into ${dialogues} training dialogues. BLEU is sacrebleu's sentence BLEU of the question against a turn of a user, from 0 to 100; containment is the share of the question's word n-grams that the turn holds.</p>
<h2>Questions that leak</h2>
${leaks.length === 0 ? "<p>None.</p>" : leaks.map(article).join("\n")}
<h2>The others</h2>
<p>${rest.length - met.length} met nothing that comes near a threshold${met.length > 0 ? "; these met something" : ""}.</p>
${met.length === 0 ? "" : `<details><summary>${met.length === 1 ? "1 question" : `${met.length} questions`}</summary>\n${met.map(article).join("\n")}\n</details>`}
</html>
`;
}

function article({ question, text, closest }: LeakRow): string {
  const hits = Object.entries(closest).map(
    ([rule, hit]) =>
      `<dt${hit.leaks ? ' class="leak"' : ""}>${ruleText(rule as LeakRule, hit)}</dt>` +
      `<dd>${escaped(hit.excerpt)}<small>${escaped(hit.dialogue)}, user turn ${hit.turn}</small></dd>`,
  );
  return `<article><h3>${escaped(question)}</h3>\n<p>${escaped(text)}</p>\n<dl>${hits.join("\n")}</dl></article>`;
}

function ruleText(rule: LeakRule, { score }: Closest): string {
  if (rule === "bleu") return `BLEU ${score.toFixed(1)}`;
  if (rule === "bleu-lower") return `lower-cased BLEU ${score.toFixed(1)}`;
  return `${(100 * score).toFixed(0)} % of its ${rule.slice("containment-".length)}-grams`;
}

/** Of both kinds of rules, from 0 to 1. */
const worst = ({ closest }: LeakRow): number =>
  Math.max(
    0,
    ...Object.entries(closest).map(([rule, { score }]) => (rule.startsWith("bleu") ? score / 100 : score)),
  );
