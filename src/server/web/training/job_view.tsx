/** One job: what it is, its buttons, its figures as charts and as a table, its samples, checkpoints and events. */
import { useState } from "preact/hooks";
import { StopIcon, RetryIcon, DownIcon, CloseIcon } from "../icons.tsx";
import { type Problem, problemOfThrown } from "../problem.ts";
import { Chart, type Series } from "./chart.tsx";
import { changeJob, type Checkpoint, download, type Job, type JobEvent, type Metrics } from "./client.ts";
import { clock, figure, percent, span } from "./format.ts";
import type { JobDetails } from "./hooks.ts";
import { Progress, Status, timeLeft } from "./job_list.tsx";

export function JobView(props: { job: Job; details: JobDetails; apiKey: string; onChanged: () => void }) {
  const { job, details } = props;
  const { metrics, events, checkpoints } = details;
  return (
    <article class="job">
      <header>
        <div class="row">
          <h1 class="cut">{job.user_provided_suffix ?? job.id}</h1>
          <Status status={job.status} />
        </div>
        <Actions job={job} apiKey={props.apiKey} onChanged={props.onChanged} />
      </header>
      {job.error !== null && (
        <p class="problem" role="alert">
          {job.error.message}
        </p>
      )}
      {job.total_steps !== null && (
        <p class="going">
          <Progress job={job} />
          <span class="figures">
            step {job.step.toLocaleString("en-US")} of {job.total_steps.toLocaleString("en-US")}
            {timeLeft(job) === null ? "" : `, ${timeLeft(job)}`}
          </span>
        </p>
      )}
      <Facts job={job} latest={metrics.at(-1) ?? null} />
      {(metrics.length > 0 || job.finished_at === null) && (
        <Charts metrics={metrics} steps={job.total_steps ?? job.step} />
      )}
      <Samples events={events} />
      <Checkpoints checkpoints={checkpoints} />
      <MetricsTable metrics={metrics} />
      <Events events={events} />
    </article>
  );
}

function Actions({ job, apiKey, onChanged }: { job: Job; apiKey: string; onChanged: () => void }) {
  const [asking, setAsking] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const change = async (what: "pause" | "resume" | "cancel") => {
    setAsking(false);
    try {
      await changeJob(job.id, what, { apiKey, signal: AbortSignal.timeout(30_000) });
      setProblem(null);
    } catch (thrown) {
      setProblem(problemOfThrown(thrown));
    }
    onChanged();
  };
  const active = ["validating_files", "queued", "running"].includes(job.status);
  const paused = job.status === "paused";
  return (
    <div class="actions">
      {asking ? (
        <div class="row" role="group" aria-label="Cancel this job?">
          <span>What was learned so far is lost.</span>
          <button type="button" class="button danger" onClick={() => void change("cancel")}>
            Cancel the job
          </button>
          <button type="button" class="button" onClick={() => setAsking(false)}>
            Keep it
          </button>
        </div>
      ) : (
        <div class="row">
          {active && (
            <button type="button" class="button" onClick={() => void change("pause")}>
              <StopIcon />
              Pause
            </button>
          )}
          {paused && (
            <button type="button" class="button primary" onClick={() => void change("resume")}>
              <RetryIcon />
              Resume
            </button>
          )}
          {(active || paused) && (
            <button type="button" class="button" onClick={() => setAsking(true)}>
              <CloseIcon />
              Cancel
            </button>
          )}
          {job.result_files[0] !== undefined && (
            <button type="button" class="button" onClick={() => void save(job, apiKey, setProblem)}>
              <DownIcon />
              Figures as CSV
            </button>
          )}
        </div>
      )}
      {problem !== null && (
        <p class="problem" role="alert">
          {problem.message}
        </p>
      )}
    </div>
  );
}

/** Not a plain link: that would come without the API key. */
async function save(job: Job, apiKey: string, onProblem: (problem: Problem) => void): Promise<void> {
  try {
    const blob = await download(job.result_files[0]!, { apiKey, signal: AbortSignal.timeout(60_000) });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${job.id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (thrown) {
    onProblem(problemOfThrown(thrown));
  }
}

function Facts({ job, latest }: { job: Job; latest: Metrics | null }) {
  const { n_epochs, batch_size, learning_rate_multiplier } = job.hyperparameters;
  const took = job.finished_at === null ? null : job.finished_at - job.created_at;
  const facts: [string, string][] = [
    ["Model", job.fine_tuned_model ?? `from ${job.model}`],
    ["Method", job.method.type],
    [
      "Epochs, batch, rate",
      [n_epochs, batch_size, learning_rate_multiplier].every((value) => value === "auto")
        ? "by the data"
        : `${String(n_epochs)}, ${String(batch_size)}, × ${figureOr(learning_rate_multiplier)}`,
    ],
    ["Seed", String(job.seed)],
    ["Created", clock(job.created_at)],
    ...(took === null ? [] : [["Took", span(took)] as [string, string]]),
    ...(latest === null
      ? []
      : ([
          ["Loss", figure(latest["train_loss"])],
          ["Speed", `${figure(latest["tokens_per_second"])} tokens/s`],
          ["Share of the machine's peak", percent(latest["utilisation"])],
        ] as [string, string][])),
  ];
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

const figureOr = (value: unknown): string => (typeof value === "number" ? figure(value) : String(value));

function Charts({ metrics, steps }: { metrics: Metrics[]; steps: number }) {
  const of = (key: string, at = "step"): Series["points"] =>
    metrics.flatMap((one) => {
      const [step, value] = [one[at], one[key]];
      return typeof value === "number" && typeof step === "number" ? [{ step, value }] : [];
    });
  if (metrics.length === 0) return <p class="hint">Figures appear with the first step.</p>;
  const validation = of("valid_loss", "valid_step").filter(
    ({ step }, i, all) => i === 0 || all[i - 1]!.step !== step,
  );
  const accuracy = of("train_mean_token_accuracy");
  return (
    <div class="charts">
      <Chart
        title="Loss"
        steps={steps}
        series={[
          { name: "Training", points: of("train_loss") },
          { name: "Validation", points: validation, dots: true },
        ]}
      />
      {accuracy.length > 0 && (
        <Chart
          title="Tokens guessed right"
          steps={steps}
          series={[{ name: "Training", points: accuracy }]}
          show={percent}
        />
      )}
      <Chart title="Learning rate" steps={steps} series={[{ name: "Rate", points: of("learning_rate") }]} />
      <Chart title="Gradient norm" steps={steps} series={[{ name: "Norm", points: of("gradient_norm") }]} />
      <Chart
        title="Tokens per second"
        steps={steps}
        series={[{ name: "Speed", points: of("tokens_per_second") }]}
      />
      {of("utilisation").length > 0 && (
        <Chart
          title="Share of the machine's peak"
          steps={steps}
          series={[{ name: "Share", points: of("utilisation") }]}
          show={percent}
        />
      )}
    </div>
  );
}

function Samples({ events }: { events: JobEvent[] }) {
  const told = events.filter(({ data }) => Array.isArray(data["samples"]));
  if (told.length === 0) return null;
  return (
    <section>
      <h2>Samples</h2>
      {told.map(({ id, data }) => (
        <details key={id} open={id === told[0]!.id}>
          <summary>Step {String(data["step"])}</summary>
          {(data["samples"] as { prompt: string; answer: string }[]).map(({ prompt, answer }, i) => (
            <div key={i} class="sample">
              <p class="bubble">{prompt}</p>
              <p>{answer === "" ? <em class="hint">an empty answer</em> : answer}</p>
            </div>
          ))}
        </details>
      ))}
    </section>
  );
}

function Checkpoints({ checkpoints }: { checkpoints: Checkpoint[] }) {
  if (checkpoints.length === 0) return null;
  return (
    <section>
      <h2>Checkpoints</h2>
      <Table
        head={["Step", "Loss", "Validation loss", "Model"]}
        rows={checkpoints.map(({ id, step_number: step, metrics, fine_tuned_model_checkpoint: model }) => ({
          key: id,
          cells: [String(step), figure(metrics["train_loss"]), figure(metrics["full_valid_loss"]), model],
        }))}
      />
    </section>
  );
}

/** As many lines as can be read; the CSV file has them all. */
const linesMax = 100;

function MetricsTable({ metrics }: { metrics: Metrics[] }) {
  if (metrics.length === 0) return null;
  const stride = Math.ceil(metrics.length / linesMax);
  const shown = metrics.filter((_, i) => i % stride === 0 || i === metrics.length - 1);
  return (
    <section>
      <details>
        <summary>Figures as a table</summary>
        <Table
          head={["Step", "Loss", "Right", "Learning rate", "Gradient norm", "Tokens/s", "Peak"]}
          rows={shown.map((one) => ({
            key: String(one.step),
            cells: [
              String(one.step),
              figure(one["train_loss"]),
              percent(one["train_mean_token_accuracy"]),
              figure(one["learning_rate"]),
              figure(one["gradient_norm"]),
              figure(one["tokens_per_second"]),
              percent(one["utilisation"]),
            ],
          }))}
        />
      </details>
    </section>
  );
}

function Table({ head, rows }: { head: string[]; rows: { key: string; cells: string[] }[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={head.join(", ")}>
      <table>
        <thead>
          <tr>
            {head.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ key, cells }) => (
            <tr key={key}>
              {cells.map((cell, i) => (
                <td key={i}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Events({ events }: { events: JobEvent[] }) {
  const told = events.filter(({ type, data }) => type === "message" && !Array.isArray(data["samples"]));
  return (
    <section>
      <h2>Events</h2>
      <ol class="events">
        {told.map(({ id, created_at: at, level, message }) => (
          <li key={id} class={level}>
            <time dateTime={new Date(at * 1000).toISOString()}>
              {new Date(at * 1000).toLocaleTimeString()}
            </time>
            <span>{message}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}
