/** A line chart of figures by step, drawn as SVG in the page's colours; what the pointer or an arrow key touches is read out. */
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { figure, ticks } from "./format.ts";

export interface Series {
  name: string;
  /** Sorted by step. */
  points: readonly { step: number; value: number }[];
  /** Single marks instead of a line: for figures that come now and then. */
  dots?: boolean;
}

const height = 168;
const margin = { left: 52, right: 12, top: 10, bottom: 22 };

export function Chart(props: {
  title: string;
  series: readonly Series[];
  steps: number;
  show?: (value: number) => string;
}) {
  const { title, series, steps, show = figure } = props;
  const frame = useRef<HTMLDivElement>(null);
  const width = useWidth(frame);
  const [at, setAt] = useState<number | null>(null);
  const filled = series.filter(({ points }) => points.length > 0);
  const last = filled[0]?.points.at(-1);
  const touched = at === null ? null : nearest(filled[0]?.points ?? [], at);
  const shown = touched ?? last;
  const scale = scaleOf(filled, steps, width);
  const onMove = (event: PointerEvent) => {
    const box = frame.current!.getBoundingClientRect();
    setAt(scale.stepAt(event.clientX - box.left));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const move = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (move === 0) return;
    event.preventDefault();
    setAt((old) => neighbour(filled[0]?.points ?? [], old, move));
  };
  return (
    <figure class="chart">
      <figcaption class="row between">
        <strong>{title}</strong>
        <span class="figures" aria-live="off">
          {shown === undefined ? "no figures yet" : `${show(shown.value)} at step ${shown.step}`}
        </span>
      </figcaption>
      <div
        ref={frame}
        class="plot"
        role="img"
        tabIndex={0}
        aria-label={summary(title, filled, show)}
        onPointerMove={onMove}
        onPointerLeave={() => setAt(null)}
        onKeyDown={onKeyDown}
        onBlur={() => setAt(null)}
      >
        {width > 0 && (
          <svg width={width} height={height} aria-hidden="true" focusable="false">
            <Grid scale={scale} width={width} show={show} />
            {filled.map(({ name, points, dots }, i) =>
              dots ? (
                <g key={name} class={`mark mark-${i}`}>
                  {points.map(({ step, value }) => (
                    <circle key={step} cx={scale.x(step)} cy={scale.y(value)} r="3" />
                  ))}
                </g>
              ) : (
                <path key={name} class={`line line-${i}`} d={lineOf(points, scale)} />
              ),
            )}
            {touched !== null && touched !== undefined && (
              <g class="touched">
                <path d={`M${scale.x(touched.step)} ${margin.top}V${height - margin.bottom}`} />
                <circle cx={scale.x(touched.step)} cy={scale.y(touched.value)} r="4" />
              </g>
            )}
          </svg>
        )}
      </div>
      {filled.length > 1 && (
        <ul class="legend">
          {filled.map(({ name }, i) => (
            <li key={name} class={`key-${i}`}>
              {name}
            </li>
          ))}
        </ul>
      )}
    </figure>
  );
}

interface Scale {
  x: (step: number) => number;
  y: (value: number) => number;
  stepAt: (x: number) => number;
  xTicks: number[];
  yTicks: number[];
}

function Grid({ scale, width, show }: { scale: Scale; width: number; show: (value: number) => string }) {
  return (
    <g class="grid">
      {scale.yTicks.map((value) => (
        <g key={value}>
          <path d={`M${margin.left} ${scale.y(value)}H${width - margin.right}`} />
          <text x={margin.left - 6} y={scale.y(value) + 4} text-anchor="end">
            {show(value)}
          </text>
        </g>
      ))}
      {scale.xTicks.map((step) => (
        <text key={step} x={scale.x(step)} y={height - 6} text-anchor="middle">
          {step.toLocaleString("en-US")}
        </text>
      ))}
    </g>
  );
}

function scaleOf(series: readonly Series[], steps: number, width: number): Scale {
  const values = series.flatMap(({ points }) => points.map(({ value }) => value)).filter(Number.isFinite);
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const bottom = values.reduce((a, b) => Math.min(a, b), Infinity);
  // A flat line stands in the middle of its own size; without any value the axis is 0 to 1.
  const [low, high] =
    values.length === 0
      ? [0, 1]
      : top > bottom
        ? [bottom, top]
        : [bottom - (Math.abs(bottom) / 2 || 0.5), top + (Math.abs(top) / 2 || 0.5)];
  const inner = Math.max(1, width - margin.left - margin.right);
  const tall = height - margin.top - margin.bottom;
  const end = Math.max(steps, 2);
  return {
    x: (step) => margin.left + ((step - 1) / (end - 1)) * inner,
    y: (value) => margin.top + (1 - (value - low) / (high - low)) * tall,
    stepAt: (x) => 1 + ((x - margin.left) / inner) * (end - 1),
    xTicks: ticks(1, end, Math.max(2, Math.floor(inner / 90))).filter(Number.isInteger),
    yTicks: ticks(low, high, 4),
  };
}

const lineOf = (points: Series["points"], scale: Scale): string =>
  points
    .filter(({ value }) => Number.isFinite(value))
    .map(
      ({ step, value }, i) =>
        `${i === 0 ? "M" : "L"}${scale.x(step).toFixed(1)} ${scale.y(value).toFixed(1)}`,
    )
    .join("");

function nearest(points: Series["points"], step: number): Series["points"][number] | undefined {
  let best: Series["points"][number] | undefined;
  for (const point of points)
    if (best === undefined || Math.abs(point.step - step) < Math.abs(best.step - step)) best = point;
  return best;
}

function neighbour(points: Series["points"], from: number | null, move: number): number | null {
  if (points.length === 0) return null;
  const current = from === null ? points.length - 1 : points.indexOf(nearest(points, from)!);
  return points[Math.min(points.length - 1, Math.max(0, current + move))]!.step;
}

function summary(title: string, series: readonly Series[], show: (value: number) => string): string {
  const parts = series.map(({ name, points }) => {
    const [first, last] = [points[0]!, points.at(-1)!];
    return `${name} from ${show(first.value)} at step ${first.step} to ${show(last.value)} at step ${last.step}`;
  });
  return parts.length === 0 ? `${title}: no figures yet` : `${title}: ${parts.join(", ")}`;
}

function useWidth(of: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    if (of.current !== null) observer.observe(of.current);
    return () => observer.disconnect();
  }, []);
  return width;
}
