/** All jobs: what they tune, how far they are, how they ended. */
import type { Job } from "./client.ts";
import { clock, span } from "./format.ts";

export function JobList(props: { jobs: Job[]; chosen: string; onChoose: (id: string) => void }) {
  return (
    <nav class="jobs" aria-label="Jobs">
      <ul>
        {props.jobs.map((job) => (
          <li key={job.id} class={job.id === props.chosen ? "current" : ""}>
            <button
              type="button"
              aria-current={job.id === props.chosen ? "true" : undefined}
              onClick={() => props.onChoose(job.id)}
            >
              <span class="row between">
                <strong class="cut">{job.user_provided_suffix ?? job.id}</strong>
                <Status status={job.status} />
              </span>
              <span class="hint cut">
                {job.model} · {clock(job.created_at)}
              </span>
              {job.total_steps !== null && <Progress job={job} />}
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}

export const Status = ({ status }: { status: string }) => <span class={`status ${status}`}>{status}</span>;

export function Progress({ job }: { job: Job }) {
  const total = job.total_steps ?? 0;
  return (
    <progress value={job.step} max={Math.max(1, total)} aria-label={`${job.step} of ${total} steps`}>
      {job.step} of {total} steps
    </progress>
  );
}

/** "about 3 min 5 s left" while it runs. */
export function timeLeft(job: Job): string | null {
  if (job.status !== "running" || job.estimated_finish === null) return null;
  return `about ${span(job.estimated_finish - Date.now() / 1000)} left`;
}
