/** The training page: the bar, the jobs, and the one that is looked at. */
import { useEffect } from "preact/hooks";
import { ThemeButton } from "../bar.tsx";
import { useApiKey, useSettings, useTheme } from "../hooks.ts";
import { Koala } from "../icons.tsx";
import { ProblemBox } from "../problem_box.tsx";
import { useDetails, useHash, useJobs } from "./hooks.ts";
import { JobList } from "./job_list.tsx";
import { JobView } from "./job_view.tsx";

export function TrainingApp() {
  const [settings, change] = useSettings();
  const [apiKey, setApiKey] = useApiKey();
  const { shown, next } = useTheme(settings.theme);
  const { jobs, problem, reload } = useJobs(apiKey);
  const [hash, choose] = useHash();
  const job = jobs?.find(({ id }) => id === hash) ?? jobs?.[0] ?? null;
  const details = useDetails(job, apiKey);
  useEffect(() => {
    const share =
      job?.status === "running" && job.total_steps
        ? `${Math.floor((100 * job.step) / job.total_steps)} % · `
        : "";
    document.title = `${share}Training · Koala`;
  }, [job]);
  return (
    <div class="training">
      <header class="bar">
        <a class="brand" href="/" title="Chat">
          <Koala />
          Koala
        </a>
        <strong>Training</strong>
        <span class="space" />
        <a class="button" href="/">
          Chat
        </a>
        <ThemeButton shown={shown} onSwitch={() => change({ theme: next })} />
      </header>
      {jobs !== null && jobs.length > 0 && <JobList jobs={jobs} chosen={job?.id ?? ""} onChoose={choose} />}
      <main>
        {problem !== null && (
          <ProblemBox problem={problem} actions={{ onRetry: reload, onApiKey: setApiKey }} />
        )}
        {jobs?.length === 0 && <Empty />}
        {job !== null && (
          <JobView key={job.id} job={job} details={details} apiKey={apiKey} onChanged={reload} />
        )}
      </main>
    </div>
  );
}

const Empty = () => (
  <div class="empty">
    <Koala />
    <h1>No job yet</h1>
    <p class="hint">Upload a file of dialogues and create a job with any OpenAI client:</p>
    <pre>
      <code>{`const file = await client.files.create({
  file: fs.createReadStream("train.jsonl"), purpose: "fine-tune" });
await client.fineTuning.jobs.create({
  model: "…", training_file: file.id });`}</code>
    </pre>
  </div>
);
