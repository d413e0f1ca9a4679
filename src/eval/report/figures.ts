/** The report's figures as inline SVG: text takes the page's colour, marks take named colours, every figure says itself in words. */
import type { LengthPoint } from "../statistics/length_control.ts";
import { type Html, html } from "./html.ts";
import { percent } from "./numbers.ts";
import type { HeadlineRow } from "./results.ts";

const width = 720;
const labelWidth = 210;
const rightEdge = width - 20;
const rowHeight = 46;
/** Figures are coordinates with two decimals at most: more would only make the file longer. */
const at = (value: number): string => String(Math.round(value * 100) / 100);

const shareX = (share: number): number => labelWidth + share * (rightEdge - labelWidth);

interface Row {
  label: string;
  detail: string;
  row: HeadlineRow;
}

/** Win, tie and loss of each row; the whisker is the interval of "exceeds or ties", whose end it straddles. */
export function stackedBars(rows: readonly Row[]): Html {
  const height = rows.length * rowHeight + 40;
  return figure(
    height,
    "Share of wins, ties and losses",
    html`${percentAxis(height - 32, rows.length * rowHeight)}
    ${rows.map(({ label, detail, row: { rate } }, index) => {
      const y = index * rowHeight + 8;
      const parts = [
        ["win", 0, rate.win],
        ["tie", rate.win, rate.tie],
        ["loss", rate.win + rate.tie, rate.loss],
      ] as const;
      return html`${rowLabel(label, detail, y)}
      ${parts.map(([kind, from, share]) => segment(kind, from, share, y))}
      ${rate.exceedsOrTiesInterval === null ? null : whisker(rate.exceedsOrTiesInterval, y + 28)}`;
    })}`,
  );
}

function segment(kind: "win" | "tie" | "loss", from: number, share: number, y: number): Html {
  const x = shareX(from);
  const wide = shareX(from + share) - x;
  const text =
    wide < 34
      ? null
      : html`<text class="in-${kind}" x="${at(x + wide / 2)}" y="${at(y + 16)}" text-anchor="middle"
          >${percent(share, 0)}</text
        >`;
  return html`<rect class="${kind}" x="${at(x)}" y="${at(y)}" width="${at(wide)}" height="22"
      ><title>${kind} ${percent(share)} %</title></rect
    >${text}`;
}

/** Scores with their intervals on one axis; a dashed line where neither system is better. */
export function forestPlot(rows: readonly Row[]): Html {
  const height = rows.length * rowHeight + 40;
  const bottom = rows.length * rowHeight;
  return figure(
    height,
    "Scores with 95 % intervals",
    html`${percentAxis(height - 32, bottom)}
      <line class="half" x1="${at(shareX(0.5))}" x2="${at(shareX(0.5))}" y1="0" y2="${bottom}" />
      ${rows.map(({ label, detail, row: { rate } }, index) => {
        const y = index * rowHeight + 8;
        return html`${rowLabel(label, detail, y)}
          ${rate.scoreInterval === null ? null : whisker(rate.scoreInterval, y + 11)}
          <rect class="mark" x="${at(shareX(rate.score) - 5)}" y="${at(y + 6)}" width="10" height="10"
            ><title>${percent(rate.score)} %</title></rect
          >`;
      })}`,
  );
}

const rowLabel = (label: string, detail: string, y: number): Html =>
  html`<text x="${labelWidth - 12}" y="${at(y + 11)}" text-anchor="end">${label}</text
    ><text class="quiet" x="${labelWidth - 12}" y="${at(y + 27)}" text-anchor="end">${detail}</text>`;

const whisker = ([low, high]: readonly [number, number], y: number): Html =>
  html`<path
    class="whisker"
    d="M${at(shareX(low))} ${at(y)}H${at(shareX(high))}M${at(shareX(low))} ${at(y - 4)}v8M${at(shareX(high))} ${at(y - 4)}v8"
  />`;

function percentAxis(y: number, bottom: number): Html {
  return html`${[0, 0.25, 0.5, 0.75, 1].map(
    (share) =>
      html`<line
          class="grid"
          x1="${at(shareX(share))}"
          x2="${at(shareX(share))}"
          y1="0"
          y2="${bottom}"
        /><text class="quiet" x="${at(shareX(share))}" y="${y + 16}" text-anchor="middle"
          >${percent(share, 0)} %</text
        >`,
  )}`;
}

/** Votes by how long a rater looked, on a logarithmic axis of seconds. */
export function dwellHistogram(dwellsMs: readonly number[], limitMs: number): Html {
  const edges = [0, 1, 2, 5, 10, 20, 30, 60, 120, 300, Infinity];
  const counts = edges
    .slice(1)
    .map((edge, bin) => dwellsMs.filter((ms) => ms / 1000 >= edges[bin]! && ms / 1000 < edge).length);
  const most = Math.max(1, ...counts);
  const step = (rightEdge - 60) / counts.length;
  const bottom = 180;
  const name = (bin: number) =>
    edges[bin + 1] === Infinity ? `≥ ${edges[bin]}` : `${edges[bin]}–${edges[bin + 1]}`;
  return figure(
    236,
    "Dwell time of votes",
    html`<line class="grid" x1="60" x2="${rightEdge}" y1="${bottom}" y2="${bottom}" />
      ${counts.map((count, bin) => {
        const tall = (count / most) * 150;
        const kind = edges[bin + 1]! * 1000 <= limitMs ? "loss" : "win";
        return html`<rect
            class="${kind}"
            x="${at(60 + bin * step + 3)}"
            y="${at(bottom - tall)}"
            width="${at(step - 6)}"
            height="${at(tall)}"
          /><text x="${at(60 + (bin + 0.5) * step)}" y="${at(bottom - tall - 5)}" text-anchor="middle"
            >${count}</text
          ><text class="quiet" x="${at(60 + (bin + 0.5) * step)}" y="${bottom + 17}" text-anchor="middle"
            >${name(bin)}</text
          >`;
      })}
      <text class="quiet" x="${at((60 + rightEdge) / 2)}" y="${bottom + 40}" text-anchor="middle"
        >seconds</text
      >`,
  );
}

/** One dot a prompt, darker where several meet, and the mean score of each fifth of the prompts by length. */
export function lengthPlot(points: readonly LengthPoint[]): Html {
  const reach = Math.max(1, ...points.map(({ difference }) => Math.abs(difference)));
  const root = (value: number) => Math.sign(value) * Math.sqrt(Math.abs(value) / reach);
  const x = (difference: number) => 70 + ((root(difference) + 1) / 2) * (rightEdge - 90);
  const y = (score: number) => 210 - score * 190;
  const fifths = inFifths(points);
  const line = fifths.map(
    ({ difference, score }, index) => `${index === 0 ? "M" : "L"}${at(x(difference))} ${at(y(score))}`,
  );
  return figure(
    268,
    "Score against difference in length",
    html`${[0, 0.5, 1].map((score) => html`<line class="grid" x1="70" x2="${rightEdge}" y1="${at(y(score))}" y2="${at(y(score))}" /><text class="quiet" x="60" y="${at(y(score) + 4)}" text-anchor="end">${percent(score, 0)} %</text>`)}
      <line class="half" x1="${at(x(0))}" x2="${at(x(0))}" y1="10" y2="220" />
      ${points.map(({ difference, score }) => html`<circle class="dot" cx="${at(x(difference))}" cy="${at(y(score))}" r="4.5" />`)}
      <path class="trend" d="${line.join("")}" />
      ${[-1, -0.25, 0, 0.25, 1].map((share) => html`<text class="quiet" x="${at(x(share * reach))}" y="238" text-anchor="middle">${share < 0 ? "−" : share > 0 ? "+" : ""}${Math.round(Math.abs(share) * reach)}</text>`)}
      <text class="quiet" x="${at(x(0))}" y="260" text-anchor="middle"
        >characters by which the first answer is longer (root scale)</text
      >`,
  );
}

/** Means of five groups of prompts of equal size, ordered by length difference. */
function inFifths(points: readonly LengthPoint[]): LengthPoint[] {
  const sorted = [...points].sort((one, two) => one.difference - two.difference);
  const groups = Math.min(5, sorted.length);
  return Array.from({ length: groups }, (_, index) => {
    const group = sorted.slice(
      Math.round((index * sorted.length) / groups),
      Math.round(((index + 1) * sorted.length) / groups),
    );
    const meanOf = (pick: (point: LengthPoint) => number) =>
      group.reduce((sum, point) => sum + pick(point), 0) / group.length;
    return { difference: meanOf(({ difference }) => difference), score: meanOf(({ score }) => score) };
  });
}

const figure = (height: number, name: string, content: Html): Html =>
  html`<div class="scroll" tabindex="0">
    <svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${name}">${content}</svg>
  </div>`;
