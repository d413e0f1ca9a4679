/** A run's record on disk: metrics.jsonl, one event a line, and TensorBoard's event file beside it. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EventFile } from "./event_file.ts";
import { scalarsOf, type TrainEvent } from "./events.ts";

export class Metrics {
  private readonly path: string;
  private readonly events: EventFile;

  /** Lines of steps after `resumedAt` belong to a run that was undone; they are dropped. */
  constructor(directory: string, resumedAt: number) {
    mkdirSync(directory, { recursive: true });
    this.path = join(directory, "metrics.jsonl");
    dropLaterLines(this.path, resumedAt);
    this.events = new EventFile(directory);
  }

  write(event: TrainEvent): void {
    appendFileSync(this.path, `${JSON.stringify({ time: Date.now() / 1000, ...event })}\n`);
    if (event.type === "step") this.events.scalars(event.step, scalarsOf(event));
    if (event.type === "evaluation") this.events.scalars(event.step, { "validation/loss": event.loss });
  }

  close(): void {
    this.events.close();
  }
}

function dropLaterLines(path: string, step: number): void {
  if (!existsSync(path)) return;
  const kept = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => stepOf(line) <= step);
  writeFileSync(path, kept.map((line) => `${line}\n`).join(""));
}

/** Infinity for what is no whole line: a run was killed while it wrote. */
function stepOf(line: string): number {
  try {
    return (JSON.parse(line) as { step: number }).step;
  } catch {
    return Infinity;
  }
}
