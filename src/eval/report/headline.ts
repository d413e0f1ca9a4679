/** The headline as a table and as two figures. */
import type { Interval } from "../statistics/bootstrap.ts";
import { forestPlot, stackedBars } from "./figures.ts";
import { type Html, html, table } from "./html.ts";
import { percent, percentInterval, pValue } from "./numbers.ts";
import type { Label } from "./page.ts";
import { type HeadlineRow, pooled, type Results } from "./results.ts";

export function headlineTable(rows: readonly HeadlineRow[], label: Label): Html {
  if (rows.length === 0) return html`<p>No votes.</p>`;
  return table(
    [
      "Pair",
      "Set",
      "Score",
      "Win",
      "Tie",
      "Loss",
      "Exceeds or ties",
      "Sign test p",
      "Holm p",
      "Prompts, votes",
    ],
    rows.map(({ pair: [a, b], set, rate, holmP }) => [
      `${label(a)} vs ${label(b)}`,
      setLabel(set),
      withInterval(html`<b>${percent(rate.score)}</b>`, rate.scoreInterval),
      percent(rate.win),
      percent(rate.tie),
      percent(rate.loss),
      withInterval(percent(rate.exceedsOrTies), rate.exceedsOrTiesInterval),
      pValue(rate.signTestP),
      pValue(holmP),
      html`${rate.prompts}<br /><small class="quiet">${rate.votes}</small>`,
    ]),
    2,
  );
}

const withInterval = (value: Html | string, interval: Interval | null): Html =>
  html`${value}<br /><small class="quiet">${percentInterval(interval)}</small>`;

export const setLabel = (set: string): string => (set === pooled ? "all sets" : set);

export function figuresSection({ headline }: Results, label: Label): Html {
  if (headline.length === 0) return html``;
  const rows = headline.map((row) => ({
    label: short(`${label(row.pair[0])} vs ${label(row.pair[1])}`),
    detail: short(`${setLabel(row.set)}, ${row.rate.prompts} prompts`),
    row,
  }));
  return html`<h2 id="figures">2. Figures</h2>
    <figure>
      <ul class="key">
        <li><i class="win"></i>first wins</li>
        <li><i class="tie"></i>tie</li>
        <li><i class="loss"></i>second wins</li>
      </ul>
      ${stackedBars(rows)}
      <figcaption>
        Wins, ties and losses in percent of votes, each prompt weighing the same. Whiskers below a bar: 95 %
        interval of the share that exceeds or ties, where ties end.
      </figcaption>
    </figure>
    <figure>
      ${forestPlot(rows)}
      <figcaption>
        Score (wins + ½ ties) with its 95 % interval. An interval that crosses the dashed line at 50 %
        establishes no difference.
      </figcaption>
    </figure>`;
}

/** What fits beside a figure. */
const short = (text: string): string => {
  const letters = [...text];
  return letters.length <= 30 ? text : `${letters.slice(0, 29).join("")}…`;
};
