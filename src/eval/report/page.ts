/** The report as one HTML page: no network, no script, readable on a phone, on paper and in the dark.
 *  Always: the page is a function of results and data; text of people and models is escaped, and a content policy forbids the rest. */
import type { StudyData } from "../study_data.ts";
import { browserSection } from "./browser.ts";
import { type Html, html } from "./html.ts";
import { percent, percentInterval, pValue } from "./numbers.ts";
import type { HeadlineRow, Results } from "./results.ts";
import {
  agreementSection,
  integritySection,
  judgeSection,
  lengthSection,
  methodSection,
  powerSection,
  ratingSection,
} from "./sections.ts";
import { figuresSection, headlineTable } from "./headline.ts";
import { styleSheet } from "./style.ts";

export function reportPage(results: Results, data: StudyData): string {
  const label = labelsOf(results);
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'" />
        <title>${results.title}</title>
        <style>
          ${styleSheet}
        </style>
      </head>
      <body>
        <main>
          <h1>${results.title}</h1>
          <p class="quiet">
            A blind pairwise comparison of ${results.systems.length} systems on ${results.questions} prompts:
            ${results.votes.analysed} votes analysed of ${results.votes.read} read, ${results.raters.length}
            raters.
          </p>
          ${findings(results, label)} ${headlineSection(results, label)} ${figuresSection(results, label)}
          ${agreementSection(results)} ${integritySection(results, data)} ${lengthSection(results, label)}
          ${ratingSection(results, label)} ${judgeSection(results, label)}
          ${browserSection(results, data, label)} ${powerSection(results, label)}
          ${methodSection(results, data)}
        </main>
      </body>
    </html> `;
  return page.text;
}

export type Label = (system: string) => string;

const labelsOf = ({ systems }: Results): Label => {
  const labels = new Map(systems.map(({ id, label }) => [id, label]));
  return (system) => labels.get(system) ?? system;
};

/** One sentence a pair, over all sets. */
function findings({ headline, sets }: Results, label: Label): Html {
  const last = sets.at(-1)?.set;
  const rows = headline.filter(({ set }) => set === last);
  if (rows.length === 0) return html`<p class="lead">There are no votes to analyse.</p>`;
  return html`<ul class="lead">
    ${rows.map((row) => html`<li>${finding(row, label)}</li>`)}
  </ul>`;
}

function finding({ pair: [a, b], rate }: HeadlineRow, label: Label): string {
  const [low, high] = rate.scoreInterval ?? [0, 1];
  const verdict =
    low > 0.5
      ? `${label(a)} is preferred to ${label(b)}`
      : high < 0.5
        ? `${label(b)} is preferred to ${label(a)}`
        : `No difference between ${label(a)} and ${label(b)} is established`;
  return `${verdict}: score ${percent(rate.score)} % (95 % interval ${percentInterval(rate.scoreInterval)}), exceeds or ties on ${percent(rate.exceedsOrTies)} %, sign test p ${pValue(rate.signTestP).replace(/^(?!<)/, "= ")}.`;
}

function headlineSection(results: Results, label: Label): Html {
  const excluded = results.raters.filter((rater) => rater.excluded.length > 0).length;
  return html`<h2 id="headline">1. Results</h2>
    <p>
      Score = wins + ½ ties of the first system, mean over prompts. Figures in percent; intervals are 95 %, by
      bootstrap over prompts.
    </p>
    ${headlineTable(results.headline, label)}
    ${
      results.headlineAllRaters === null
        ? html`<p class="quiet">
            The rule for raters excluded nobody, so the analysis of all raters is the same.
          </p>`
        : html`<h3>With all raters (${excluded} excluded above)</h3>
            ${headlineTable(results.headlineAllRaters, label)}`
    }
    ${results.criteria.map(
      ({ criterion, headline }) =>
        html`<h3>Criterion: ${criterion}</h3>
          ${headlineTable(headline, label)}`,
    )}`;
}
