/** The box at the bottom where a message is written; its button sends, and stops while an answer runs. */
import type { RefObject } from "preact";
import { useState } from "preact/hooks";
import { SendIcon, StopIcon } from "./icons.tsx";

export function Composer(props: {
  area: RefObject<HTMLTextAreaElement | null>;
  busy: boolean;
  ready: boolean;
  onSend: (text: string) => void;
  onStop: () => void;
}) {
  const [text, setText] = useState("");
  const sendable = props.ready && text.trim() !== "";
  const send = () => {
    if (props.busy || !sendable) return;
    props.onSend(text);
    setText("");
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // While an input method composes a character, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <div class="composer">
      <div class="box">
        <textarea
          ref={props.area}
          class="grow"
          rows={1}
          placeholder="Write a message"
          aria-label="Message"
          aria-describedby="composer-hint"
          enterkeyhint="send"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        <RunButton busy={props.busy} disabled={!sendable} label="Send" onRun={send} onStop={props.onStop} />
      </div>
      <p id="composer-hint" class="hint keys">
        <kbd>Enter</kbd> sends, <kbd>Shift</kbd> <kbd>Enter</kbd> starts a new line, <kbd>Esc</kbd> stops
      </p>
    </div>
  );
}

/** One element for both, so that the focus stays where it is when sending turns into stopping. */
export function RunButton(props: {
  busy: boolean;
  disabled: boolean;
  label: string;
  onRun: () => void;
  onStop: () => void;
}) {
  const label = props.busy ? "Stop" : props.label;
  return (
    <button
      type="button"
      class="round"
      aria-disabled={!props.busy && props.disabled}
      aria-label={label}
      title={label}
      onClick={props.busy ? props.onStop : props.onRun}
    >
      {props.busy ? <StopIcon /> : <SendIcon />}
    </button>
  );
}
