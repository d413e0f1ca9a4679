/** What went wrong, with the way out: try again, give an API key, or go on in completion mode. */
import { useState } from "preact/hooks";
import { RetryIcon } from "./icons.tsx";
import type { Problem } from "./problem.ts";

export interface ProblemActions {
  onRetry: () => void;
  onApiKey: (apiKey: string) => void;
  /** Absent where the completion view is already shown. */
  onCompletionMode?: () => void;
}

export function ProblemBox({ problem, actions }: { problem: Problem; actions: ProblemActions }) {
  return (
    <div class="problem" role="alert">
      <p>{problem.message}</p>
      {problem.kind === "no-template" && (
        <p>
          It is probably a base model: it was trained to continue text, not to talk. Completion mode lets it
          do that.
        </p>
      )}
      {problem.kind === "auth" ? (
        <ApiKeyForm onApiKey={actions.onApiKey} />
      ) : (
        <div class="row">
          {problem.kind === "no-template" && actions.onCompletionMode !== undefined && (
            <button type="button" class="button primary" onClick={actions.onCompletionMode}>
              Open completion mode
            </button>
          )}
          <button type="button" class="button" onClick={actions.onRetry}>
            <RetryIcon />
            Try again
          </button>
        </div>
      )}
    </div>
  );
}

function ApiKeyForm({ onApiKey }: { onApiKey: (apiKey: string) => void }) {
  const [value, setValue] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (value.trim() !== "") onApiKey(value.trim());
  };
  return (
    <form class="row" onSubmit={submit}>
      <label class="keyed">
        <span>API key</span>
        <input
          class="field"
          type="password"
          autocomplete="off"
          value={value}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
      </label>
      <button class="button primary" disabled={value.trim() === ""}>
        Use this key
      </button>
      <span class="hint">Kept until this tab is closed.</span>
    </form>
  );
}
