/** Figures of steps that a killed process wrote to metrics.jsonl and did not come to put into the store: the trainer goes
 *  on after those steps and never tells of them again, but charts and the result file want them. */
import { join } from "node:path";
import { listMetrics } from "../../store/job_events.ts";
import type { Store } from "../../store/store.ts";
import type { TrainEvent } from "../../train/events.ts";
import type { JobReporter } from "./job_reporter.ts";

/** Tells `reporter` of them. What the run then does again is forgotten with its start, as always. */
export async function tellLostMetrics(
  reporter: JobReporter,
  of: { store: Store; jobId: string; output: string },
) {
  const file = Bun.file(join(of.output, "metrics.jsonl"));
  if (!(await file.exists())) return;
  const [last] = (await listMetrics(of.store, of.jobId, { afterStep: -1, pointsMax: 1 })).slice(-1);
  for (const line of (await file.text()).split("\n")) {
    const event = parsed(line);
    if (event?.type === "evaluation") reporter.validated(event);
    if (event?.type === "step" && event.step > (last?.step ?? 0)) reporter.train(event);
  }
  await reporter.flush();
}

/** null for the last line of a process that died while it wrote. */
function parsed(line: string): TrainEvent | null {
  try {
    return JSON.parse(line) as TrainEvent;
  } catch {
    return null;
  }
}
