/** One message of a chat: a question that can be edited, or an answer with its figures, or what went wrong with it.
 *  `locked`: nothing can be sent now, because an answer is running or the settings are wrong. */
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { EditIcon, RetryIcon } from "./icons.tsx";
import { CopyButton, Markdown } from "./markdown.tsx";
import { ProblemBox, type ProblemActions } from "./problem_box.tsx";
import { ReportButton, ReportForm, Withheld } from "./report.tsx";
import { type Answer, isRunning, type Question, tokensPerSecond } from "./state.ts";

export function QuestionView(props: { question: Question; locked: boolean; onEdit: (text: string) => void }) {
  const [editing, setEditing] = useState(false);
  const { question, locked, onEdit } = props;
  if (editing)
    return (
      <Editor
        text={question.content}
        locked={locked}
        onCancel={() => setEditing(false)}
        onSave={(text) => {
          setEditing(false);
          onEdit(text);
        }}
      />
    );
  return (
    <article class="question" aria-label="You">
      <div class="bubble">{question.content}</div>
      <div class="tools">
        <CopyButton text={question.content} label="Copy message" />
        <button
          type="button"
          class="quiet"
          disabled={locked}
          onClick={() => setEditing(true)}
          title="Edit message"
          aria-label="Edit message"
        >
          <EditIcon />
        </button>
      </div>
    </article>
  );
}

function Editor(props: {
  text: string;
  locked: boolean;
  onSave: (text: string) => void;
  onCancel: () => void;
}) {
  const { text, onSave, onCancel } = props;
  const [draft, setDraft] = useState(text);
  const savable = !props.locked && draft.trim() !== "";
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const save = () => savable && onSave(draft);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      onCancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      save();
    }
  };
  return (
    <article class="question editing" aria-label="Edit your message">
      <textarea
        ref={area}
        class="field grow"
        aria-label="Your message"
        value={draft}
        onInput={(event) => setDraft(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="row end">
        <span class="hint">What follows is answered anew.</span>
        <button type="button" class="button" onClick={onCancel}>
          Cancel
        </button>
        <button type="button" class="button primary" disabled={!savable} onClick={save}>
          Save and send
        </button>
      </div>
    </article>
  );
}

export function AnswerView(props: {
  answer: Answer;
  /** What it replies to. */
  question: string;
  apiKey: string;
  locked: boolean;
  actions: ProblemActions;
}) {
  const { answer, locked, actions } = props;
  const [reporting, setReporting] = useState(false);
  const running = isRunning(answer);
  return (
    <article class="answer" aria-label="Koala" aria-busy={running}>
      {answer.status === "waiting" && <Waiting />}
      {answer.content !== "" && <Markdown text={answer.content} />}
      <Withheld answer={answer} />
      {answer.problem !== null && <ProblemBox problem={answer.problem} actions={actions} />}
      {!running && (
        <div class="tools">
          {answer.content !== "" && <CopyButton text={answer.content} label="Copy answer" />}
          {answer.problem === null && (
            <button
              type="button"
              class="quiet"
              disabled={locked}
              onClick={actions.onRetry}
              title="Answer again"
              aria-label="Answer again"
            >
              <RetryIcon />
            </button>
          )}
          {answer.content !== "" && (
            <ReportButton open={reporting} onToggle={() => setReporting(!reporting)} />
          )}
          <Figures answer={answer} />
        </div>
      )}
      {!running && reporting && (
        <ReportForm
          answer={answer}
          question={props.question}
          apiKey={props.apiKey}
          onClose={() => setReporting(false)}
        />
      )}
    </article>
  );
}

export function Waiting() {
  return (
    <p class="waiting">
      <span class="unseen">Waiting for the first word</span>
      <i />
      <i />
      <i />
    </p>
  );
}

/** Tokens, speed and what ended the answer, in one quiet line. */
export function Figures({ answer }: { answer: Answer }) {
  const { usage, timing } = answer;
  const speed = tokensPerSecond(answer);
  const parts = [
    answer.status === "stopped" && "stopped",
    answer.finishReason === "length" && "cut at the length limit",
    usage !== null && `${count(usage.completionTokens)} ${usage.completionTokens === 1 ? "token" : "tokens"}`,
    speed !== null && `${speed < 100 ? speed.toFixed(1) : count(Math.round(speed))} tokens/s`,
    timing !== null && `first after ${(timing.firstTextMs / 1000).toFixed(2)} s`,
    usage !== null && `prompt ${count(usage.promptTokens)}`,
  ].filter((part) => part !== false);
  return <span class="figures">{parts.join(" · ")}</span>;
}

function count(value: number): string {
  return value.toLocaleString("en");
}
