/** The completion view, for models that continue text rather than talk: one text, which the model writes on. */
import { useRef, useState } from "preact/hooks";
import { streamCompletion } from "./client.ts";
import { RunButton } from "./composer.tsx";
import type { Runner } from "./hooks.ts";
import { UndoIcon } from "./icons.tsx";
import { CopyButton } from "./markdown.tsx";
import { Figures, Waiting } from "./message.tsx";
import { type ParamBody } from "./params.ts";
import { ProblemBox } from "./problem_box.tsx";
import { Withheld } from "./report.tsx";
import { type Answer, changeAnswer, emptyAnswer, isRunning } from "./state.ts";

/** The API's own default of 16 is too short to read. */
const pieceTokens = 128;

export function CompletionView(props: {
  draft: string;
  onDraft: (text: string) => void;
  model: string;
  params: ParamBody;
  ready: boolean;
  runner: Runner;
  notice: preact.ComponentChildren;
  onApiKey: (apiKey: string) => void;
}) {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const before = useRef("");
  const area = useRef<HTMLTextAreaElement>(null);
  const { draft, model, params } = props;
  const busy = isRunning(answer ?? undefined);
  const run = (prompt: string) => {
    if (busy || !props.ready || prompt === "") return;
    before.current = prompt;
    let current = emptyAnswer();
    setAnswer(current);
    props.runner.run(
      (access) => streamCompletion({ model, prompt, params: { max_tokens: pieceTokens, ...params } }, access),
      (change) => {
        current = changeAnswer(current, change);
        setAnswer(current);
        props.onDraft(prompt + current.content);
        if (area.current !== null) area.current.scrollTop = area.current.scrollHeight;
      },
    );
  };
  const undo = () => {
    props.onDraft(before.current);
    setAnswer(null);
    area.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    event.preventDefault();
    run(draft);
  };
  const written = answer !== null && answer.content !== "" && draft === before.current + answer.content;
  return (
    <main class="chat completion">
      <div class="column paper">
        <label class="unseen" for="completion-text">
          Text
        </label>
        <textarea
          id="completion-text"
          ref={area}
          class="field"
          placeholder="Write the beginning. The model continues it."
          aria-describedby="completion-hint"
          readOnly={busy}
          aria-busy={busy}
          value={draft}
          onInput={(event) => props.onDraft(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
      </div>
      <div class="foot column">
        {props.notice}
        {answer?.status === "waiting" && <Waiting />}
        {answer !== null && <Withheld answer={answer} />}
        {answer?.problem && (
          <ProblemBox
            problem={answer.problem}
            actions={{ onRetry: () => run(draft), onApiKey: props.onApiKey }}
          />
        )}
        <div class="row between bar">
          <div class="tools">
            <CopyButton text={draft} label="Copy text" />
            <button
              type="button"
              class="quiet"
              disabled={!written || busy}
              onClick={undo}
              title="Take back"
              aria-label="Take back what the model wrote"
            >
              <UndoIcon />
            </button>
            {answer !== null && !busy && <Figures answer={answer} />}
          </div>
          <RunButton
            busy={busy}
            disabled={!props.ready || draft === ""}
            label="Continue the text"
            onRun={() => run(draft)}
            onStop={props.runner.stop}
          />
        </div>
        <p id="completion-hint" class="hint keys">
          <kbd>Ctrl</kbd> <kbd>Enter</kbd> continues the text by {params.max_tokens ?? pieceTokens} tokens at
          most, <kbd>Esc</kbd> stops
        </p>
      </div>
      <p class="unseen" role="status">
        {busy ? "Koala is writing." : ""}
      </p>
    </main>
  );
}
