/** The rating page: what the study is, one comparison after another, and the completion code at the end. */
import { ThemeButton } from "../bar.tsx";
import { useSettings, useTheme } from "../hooks.ts";
import { Koala } from "../icons.tsx";
import type { StudyState } from "./client.ts";
import { DonePage } from "./done_page.tsx";
import { useStudy } from "./hooks.ts";
import { TaskView } from "./task_view.tsx";

export function RatingApp() {
  const [settings, change] = useSettings();
  const { shown, next } = useTheme(settings.theme);
  const study = useStudy();
  const { phase, state, progress, problem } = study;
  return (
    <div class={`rating ${phase}`}>
      <header class="bar">
        <Koala />
        {phase === "rating" && progress !== null ? (
          <ProgressBar done={progress.done} total={progress.total} />
        ) : (
          <span class="space" />
        )}
        {phase === "rating" && (
          <button type="button" class="button" disabled={study.back === null} onClick={() => study.back?.()}>
            Back
          </button>
        )}
        <ThemeButton shown={shown} onSwitch={() => change({ theme: next })} />
      </header>
      {problem !== null && (
        <div class="notice" role="alert">
          <p>{problem.message}</p>
          <button type="button" class="button" onClick={study.retry}>
            Try again
          </button>
        </div>
      )}
      {phase === "welcome" && state !== null && (
        <Welcome state={state} preview={study.preview} onBegin={study.begin} />
      )}
      {phase === "rating" && study.task !== null && state !== null && (
        <TaskView
          key={study.task.id}
          task={study.task}
          criteria={state.criteria}
          onVote={study.vote}
          onKeep={study.keep}
          onBack={study.back}
          onReport={study.report}
        />
      )}
      {phase === "done" && study.completion !== null && <DonePage completion={study.completion} />}
      <p class="unseen" role="status">
        {phase === "rating" && study.task !== null && progress !== null
          ? `Comparison ${study.task.number} of ${progress.total}.`
          : ""}
      </p>
    </div>
  );
}

function ProgressBar({ done, total }: { done: number; total: number }) {
  return (
    <div class="progress">
      <progress value={done} max={Math.max(1, total)} aria-label="Comparisons done" />
      <span>
        {done} / {total}
      </span>
    </div>
  );
}

function Welcome(props: { state: StudyState; preview: boolean; onBegin: () => void }) {
  const { state } = props;
  const begun = state.done > 0;
  return (
    <main class="sheet">
      <h1>{state.title}</h1>
      <p>{state.instructions}</p>
      <p class="hint">
        On a keyboard: <kbd>A</kbd> or <kbd>B</kbd> for the better answer, <kbd>T</kbd> for a tie,{" "}
        <kbd>N</kbd> for neither, <kbd>U</kbd> to go back.
      </p>
      <h2>Before you begin</h2>
      <p>{state.consent}</p>
      {props.preview ? (
        <p role="status">This is a preview. Accept the task to begin.</p>
      ) : (
        <button type="button" class="button primary large" onClick={props.onBegin}>
          {begun ? "Go on" : "I agree, begin"}
        </button>
      )}
    </main>
  );
}
