/** The application: the bar on top, past chats on the left, settings on the right, and the chat or the text between them. */
import { useEffect, useState } from "preact/hooks";
import { Bar, ThemeButton, TrainingLink } from "./bar.tsx";
import { ChatView } from "./chat.tsx";
import { CompletionView } from "./completion.tsx";
import { History } from "./history.tsx";
import {
  newId,
  type Runner,
  useApiKey,
  useChatAnswers,
  useChats,
  useMedia,
  useModels,
  useRunner,
  useSettings,
  useTheme,
} from "./hooks.ts";
import { Panel } from "./panel.tsx";
import { readParams } from "./params.ts";
import { ProblemBox } from "./problem_box.tsx";
import { SettingsPanel } from "./settings.tsx";
import { type Action, type State, titleOf } from "./state.ts";
import type { Settings } from "./storage.ts";

export function App() {
  const [settings, change] = useSettings();
  const [apiKey, setApiKey] = useApiKey();
  const { state, dispatch, unkept } = useChats(settings.system);
  const server = useModels(apiKey);
  const runner = useRunner(apiKey);
  const { body: params, problems } = readParams(settings.params);
  const wrong = Object.values(problems);
  const chosen = server.models?.find(({ id }) => id === settings.model) ?? server.models?.[0];
  const model = chosen?.id ?? "";
  useChatAnswers(state.open, dispatch, { runner, model, params });
  useEscape(runner.stop);
  useTitle(state.open.messages.length === 0 ? "Koala" : `${titleOf(state.open)} · Koala`);

  const { shown, next } = useTheme(settings.theme);
  const theme = { shown, onSwitch: () => change({ theme: next }) };
  const wide = useMedia("(min-width: 64rem)");
  const [panels, setPanels] = useState({ history: false, settings: false });
  const show = (part: Partial<typeof panels>) => setPanels((old) => ({ ...old, ...part }));
  const history = useHistory({ state, dispatch, runner, change, onDone: () => show({ history: false }) });
  const notice = <Notice server={server} onApiKey={setApiKey} unkept={unkept} wrong={wrong} />;
  const shared = { model, notice, ready: model !== "" && wrong.length === 0, onApiKey: setApiKey };
  return (
    <div class="layout">
      <Bar
        wide={wide}
        settings={settings}
        onChange={(part) => (part.mode !== undefined && runner.stop(), change(part))}
        models={server.models ?? []}
        model={model}
        settingsOpen={panels.settings}
        theme={theme}
        onHistory={() => show({ history: true })}
        onSettings={() => show({ settings: !panels.settings })}
      />
      {(wide || panels.history) && (
        <Panel label="Chats" side="left" inline={wide} onClose={() => show({ history: false })}>
          <History chats={state.chats} openId={state.open.id} {...history} />
        </Panel>
      )}
      {settings.mode === "chat" ? (
        <ChatView
          {...shared}
          chat={state.open}
          apiKey={apiKey}
          talks={chosen?.hasChatTemplate ?? true}
          description={chosen?.description ?? null}
          dispatch={dispatch}
          onStop={runner.stop}
          onCompletionMode={(text) => change({ mode: "completion", draft: settings.draft || text })}
        />
      ) : (
        <CompletionView
          {...shared}
          params={params}
          draft={settings.draft}
          onDraft={(draft) => change({ draft })}
          runner={runner}
        />
      )}
      {panels.settings && (
        <Panel label="Settings" side="right" inline={wide} onClose={() => show({ settings: false })}>
          <SettingsPanel
            params={settings.params}
            onParams={(form) => change({ params: form })}
            system={settings.mode === "chat" ? state.open.system : null}
            onSystem={(text) => (dispatch({ type: "system", text }), change({ system: text }))}
          />
          {!wide && <TrainingLink />}
          {!wide && <ThemeButton {...theme} spelledOut />}
        </Panel>
      )}
    </div>
  );
}

/** What keeps the page from working, or from remembering. */
function Notice(props: {
  server: ReturnType<typeof useModels>;
  onApiKey: (apiKey: string) => void;
  unkept: boolean;
  wrong: string[];
}) {
  const { server, onApiKey, unkept, wrong } = props;
  return (
    <>
      {server.problem !== null && (
        <ProblemBox problem={server.problem} actions={{ onRetry: server.reload, onApiKey }} />
      )}
      {server.models?.length === 0 && (
        <p class="problem">
          This server has no model yet. Start it with koala serve --model and the name of one.
        </p>
      )}
      {unkept && (
        <p class="problem">
          This chat is too long for the browser's storage: it is gone when the page is closed.
        </p>
      )}
      {wrong.length > 0 && (
        <p class="problem" role="alert">
          {wrong[0]} Nothing is sent until that is put right in the settings.
        </p>
      )}
    </>
  );
}

/** What the list of chats can do. Leaving a chat stops its answer. */
function useHistory(using: {
  state: State;
  dispatch: (action: Action) => void;
  runner: Runner;
  change: (part: Partial<Settings>) => void;
  onDone: () => void;
}) {
  const { state, dispatch, runner } = using;
  const go = (action: Action) => {
    runner.stop();
    using.change({ mode: "chat" });
    dispatch(action);
    using.onDone();
  };
  return {
    onNew: () => go({ type: "new", id: newId(), now: Date.now() }),
    onOpen: (id: string) => go({ type: "open", id }),
    onDelete: (id: string) => {
      if (id === state.open.id) runner.stop();
      dispatch({ type: "delete", id, newId: newId(), now: Date.now() });
    },
  };
}

function useTitle(title: string): void {
  useEffect(() => {
    document.title = title;
  }, [title]);
}

/** Esc stops the answer; in an open dialog or a message being edited it closes that instead. */
function useEscape(stop: () => void): void {
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key === "Escape" && document.querySelector("dialog[open]") === null) stop();
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, [stop]);
}
