/** The open chat: its messages, following the answer as it grows, and the composer below. */
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Composer } from "./composer.tsx";
import { DownIcon, Koala } from "./icons.tsx";
import { AnswerView, QuestionView } from "./message.tsx";
import { Limits } from "./report.tsx";
import { type Action, type Chat, isBusy } from "./state.ts";

export function ChatView(props: {
  chat: Chat;
  dispatch: (action: Action) => void;
  model: string;
  ready: boolean;
  /** Whether the model has a chat template. */
  talks: boolean;
  description: string | null;
  /** Shown above the composer, when something keeps the page from working. */
  notice: ComponentChildren;
  onStop: () => void;
  apiKey: string;
  onApiKey: (apiKey: string) => void;
  onCompletionMode: (text: string) => void;
}) {
  const { chat, dispatch } = props;
  const busy = isBusy(chat);
  const locked = busy || !props.ready;
  const area = useRef<HTMLTextAreaElement>(null);
  const { box, away, follow } = useFollow(chat);
  useLayoutEffect(() => area.current?.focus(), [chat.id]);
  const ask = (text: string, at: number) => {
    follow();
    dispatch({ type: "ask", text, at, now: Date.now() });
    area.current?.focus();
  };
  const again = (at: number) => {
    if (locked) return;
    dispatch({ type: "regenerate", at, now: Date.now() });
    area.current?.focus();
  };
  const actionsAt = (index: number) => ({
    onRetry: () => again(index),
    onApiKey: (apiKey: string) => {
      props.onApiKey(apiKey);
      again(index);
    },
    onCompletionMode: () => props.onCompletionMode(chat.messages[index - 1]?.content ?? ""),
  });
  return (
    <main class="chat">
      <div
        class="messages"
        ref={box}
        role="log"
        aria-label="Messages"
        aria-live="polite"
        aria-busy={busy}
        tabIndex={0}
      >
        <div class="column">
          {chat.messages.length === 0 && <Empty {...props} />}
          {chat.messages.map((message, index) =>
            message.role === "user" ? (
              <QuestionView
                key={`${chat.id} ${index}`}
                question={message}
                locked={locked}
                onEdit={(text) => ask(text, index)}
              />
            ) : (
              <AnswerView
                key={`${chat.id} ${index}`}
                answer={message}
                question={chat.messages[index - 1]?.content ?? ""}
                apiKey={props.apiKey}
                locked={locked}
                actions={actionsAt(index)}
              />
            ),
          )}
        </div>
      </div>
      <div class="foot column">
        {away && (
          <button type="button" class="button latest" onClick={follow}>
            <DownIcon />
            Latest
          </button>
        )}
        {props.notice}
        <Composer
          area={area}
          busy={busy}
          ready={props.ready}
          onSend={(text) => ask(text, chat.messages.length)}
          onStop={props.onStop}
        />
        <Limits />
      </div>
      <p class="unseen" role="status">
        {busy ? "Koala is answering." : ""}
      </p>
    </main>
  );
}

function Empty(props: {
  model: string;
  talks: boolean;
  description: string | null;
  onCompletionMode: (text: string) => void;
}) {
  const { model, talks, description } = props;
  if (!talks)
    return (
      <div class="empty">
        <Koala />
        <h1>{model} continues text</h1>
        <p class="hint">It has no chat template, so it was probably not trained to talk.</p>
        <button type="button" class="button primary" onClick={() => props.onCompletionMode("")}>
          Open completion mode
        </button>
      </div>
    );
  return (
    <div class="empty">
      <Koala />
      <h1>What would you like to know?</h1>
      <p class="hint">
        {model === "" ? "Looking for the model…" : `${model} answers. Past chats stay in this browser.`}
      </p>
      {description !== null && <p class="hint">{description}</p>}
    </div>
  );
}

/** Keeps the end in view while an answer grows, unless the reader has scrolled away from it. */
function useFollow(chat: Chat) {
  const box = useRef<HTMLDivElement>(null);
  const [away, setAway] = useState(false);
  const following = useRef(true);
  const follow = () => {
    following.current = true;
    setAway(false);
    if (box.current !== null) box.current.scrollTop = box.current.scrollHeight;
  };
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const onScroll = () => {
      following.current = element.scrollHeight - element.scrollTop - element.clientHeight < 48;
      setAway(!following.current);
    };
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => element.removeEventListener("scroll", onScroll);
  }, []);
  useLayoutEffect(follow, [chat.id]);
  useLayoutEffect(() => {
    if (following.current) follow();
  }, [chat]);
  return { box, away, follow };
}
