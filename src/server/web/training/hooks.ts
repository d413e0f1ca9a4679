/** What the page knows of the server, fetched anew while there is something to see. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { type Problem, problemOfThrown } from "../problem.ts";
import {
  type Checkpoint,
  type Job,
  type JobEvent,
  listCheckpoints,
  listEvents,
  listJobs,
  listMetrics,
  type Metrics,
} from "./client.ts";

const pollMs = 1500;
/** Of a job of which nothing is expected any more. */
const slowPollMs = 15_000;

const isActive = (job: Job | null): boolean =>
  job !== null && ["validating_files", "queued", "running"].includes(job.status);

export function useJobs(apiKey: string) {
  const [jobs, setJobs] = useState<Job[] | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const reload = usePolling(
    async (signal) => {
      const found = await listJobs({ apiKey, signal });
      setJobs(found);
      setProblem(null);
      return found.some(isActive) ? pollMs : 2 * pollMs;
    },
    (thrown) => setProblem(problemOfThrown(thrown)),
    apiKey,
  );
  return { jobs, problem, reload };
}

export interface JobDetails {
  metrics: Metrics[];
  events: JobEvent[];
  checkpoints: Checkpoint[];
}

const nothing: JobDetails = { metrics: [], events: [], checkpoints: [] };

/** Figures, events and checkpoints of the job that is looked at. */
export function useDetails(job: Job | null, apiKey: string): JobDetails {
  const [details, setDetails] = useState<JobDetails & { id: string | null }>({ ...nothing, id: null });
  const known = useRef<{ id: string | null; metrics: Metrics[] }>({ id: null, metrics: [] });
  const id = job?.id ?? null;
  usePolling(
    async (signal) => {
      if (id === null) return slowPollMs;
      const access = { apiKey, signal };
      if (known.current.id !== id) known.current = { id, metrics: [] };
      // A process that went on from a checkpoint makes the steps after it again.
      const old = known.current.metrics.filter(({ step }) => step <= (job?.step ?? 0));
      const [events, checkpoints, more] = await Promise.all([
        listEvents(id, access),
        listCheckpoints(id, access),
        listMetrics(id, old.at(-1)?.step ?? -1, access),
      ]);
      const metrics = [...old, ...more];
      known.current = { id, metrics };
      setDetails({ id, metrics, events, checkpoints });
      return isActive(job) ? pollMs : slowPollMs;
    },
    () => {}, // the list of jobs tells what is wrong
    `${apiKey} ${id} ${job?.status}`,
  );
  return details.id === id ? details : nothing;
}

/** Calls `work` now and again after the time it answers; anew when `key` changes. Rests while the page is not seen. */
function usePolling(
  work: (signal: AbortSignal) => Promise<number>,
  onError: (thrown: unknown) => void,
  key: string,
): () => void {
  const latest = useRef({ work, onError });
  latest.current = { work, onError };
  const [round, setRound] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const run = async () => {
      let pause = pollMs;
      try {
        if (!document.hidden) pause = await latest.current.work(controller.signal);
      } catch (thrown) {
        if (controller.signal.aborted) return;
        latest.current.onError(thrown);
        pause = 2 * pollMs;
      }
      if (!controller.signal.aborted) timer = setTimeout(run, pause);
    };
    void run();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [key, round]);
  return useCallback(() => setRound((count) => count + 1), []);
}

/** The job that the address names, so that a reload and a link show the same. */
export function useHash(): [string, (id: string) => void] {
  const read = () => decodeURIComponent(location.hash.slice(1));
  const [hash, setHash] = useState(read);
  useEffect(() => {
    const update = () => setHash(read());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return [hash, (id) => (location.hash = encodeURIComponent(id))];
}
