/** What the components share: remembered settings and chats, the server's models, and the one answer that is running. */
import { useCallback, useEffect, useLayoutEffect, useReducer, useRef, useState } from "preact/hooks";
import { runAnswer } from "./answer.ts";
import { type Access, type AnswerEvent, listModels, type Model, streamChat } from "./client.ts";
import { type ParamBody } from "./params.ts";
import { type Problem, problemOfThrown } from "./problem.ts";
import {
  type Action,
  type AnswerChange,
  type Chat,
  newChat,
  reduce,
  type State,
  wireMessages,
} from "./state.ts";
import * as storage from "./storage.ts";

export function useSettings() {
  const [settings, setSettings] = useState(() => storage.loadSettings(local()));
  const change = useCallback(
    (part: Partial<storage.Settings>) => setSettings((old) => ({ ...old, ...part })),
    [],
  );
  useLayoutEffect(() => {
    storage.saveSettings(local(), settings);
  }, [settings]);
  return [settings, change] as const;
}

export function useApiKey() {
  const [apiKey, setApiKey] = useState(() => storage.loadApiKey(session()));
  const change = (value: string) => {
    storage.saveApiKey(session(), value);
    setApiKey(value);
  };
  return [apiKey, change] as const;
}

/** The chats of this browser, saved as they change. */
export function useChats(system: string) {
  const [state, dispatch] = useReducer<State, Action, string>(reduce, system, firstState);
  const saved = useRef(new Map(state.chats.map((chat) => [chat.id, chat])));
  const [unkeptIds, setUnkeptIds] = useState<string[]>([]);
  useLayoutEffect(() => {
    const failed = saveChanged(state.chats, saved.current);
    if (failed !== null) setUnkeptIds(failed);
  }, [state.chats]);
  useEffect(() => {
    const synchronize = (event: StorageEvent) => {
      if (!storage.isChatKey(event.key)) return;
      const chats = storage.loadChats(local());
      // What another tab wrote must not be written back: it may be in the middle of an answer.
      for (const chat of chats) saved.current.set(chat.id, chat);
      dispatch({ type: "synced", chats });
    };
    addEventListener("storage", synchronize);
    return () => removeEventListener("storage", synchronize);
  }, []);
  return { state, dispatch, unkept: unkeptIds.includes(state.open.id) };
}

/** The models that the server answers for. null while it has not answered. */
export function useModels(apiKey: string) {
  const [models, setModels] = useState<Model[] | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    listModels({ apiKey, signal: controller.signal })
      .then((list) => {
        setModels(list);
        setProblem(null);
      })
      .catch((thrown: unknown) => {
        if (!controller.signal.aborted) setProblem(problemOfThrown(thrown));
      });
    return () => controller.abort();
  }, [apiKey, round]);
  return { models, problem, reload: () => setRound((count) => count + 1) };
}

type Theme = storage.Settings["theme"];

export interface Runner {
  run: (open: (access: Access) => AsyncIterable<AnswerEvent>, emit: (change: AnswerChange) => void) => void;
  stop: () => void;
}

/** At most one answer runs: starting one stops the one before. */
export function useRunner(apiKey: string): Runner {
  const controller = useRef<AbortController | null>(null);
  const stop = useCallback(() => controller.current?.abort(), []);
  const run: Runner["run"] = (open, emit) => {
    stop();
    const current = new AbortController();
    controller.current = current;
    void runAnswer(open({ apiKey, signal: current.signal }), emit, { signal: current.signal });
  };
  useEffect(() => stop, [stop]);
  return { run, stop };
}

/** Asks the model whenever the open chat has got a new waiting answer. */
export function useChatAnswers(
  chat: Chat,
  dispatch: (action: Action) => void,
  using: { runner: Runner; model: string; params: ParamBody },
) {
  const last = chat.messages.at(-1);
  const waiting = last?.role === "assistant" && last.status === "waiting" ? chat : null;
  const key = waiting === null ? null : `${waiting.id} ${waiting.updatedAt} ${waiting.messages.length}`;
  useEffect(() => {
    if (waiting === null) return;
    const { runner, model, params } = using;
    const request = { model, params, messages: wireMessages(waiting) };
    runner.run(
      (access) => streamChat(request, access),
      (change) => dispatch({ ...change, chatId: waiting.id, now: Date.now(), model }),
    );
  }, [key]); // the request is what was asked at that moment: later changes of model or parameters are for the next one
}

export function useMedia(query: string): boolean {
  const [matches, setMatches] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const list = matchMedia(query);
    const update = () => setMatches(list.matches);
    list.addEventListener("change", update);
    return () => list.removeEventListener("change", update);
  }, [query]);
  return matches;
}

/** Sets the theme on the document; returns what is shown now, and the setting that shows the other one. */
export function useTheme(theme: Theme): { shown: "light" | "dark"; next: Theme } {
  const systemDark = useMedia("(prefers-color-scheme: dark)");
  useLayoutEffect(() => {
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
  }, [theme]);
  const system = systemDark ? "dark" : "light";
  const shown = theme === "system" ? system : theme;
  const other = shown === "dark" ? "light" : "dark";
  return { shown, next: other === system ? "system" : other };
}

/** crypto.randomUUID exists only on https and localhost. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join("");
}

function firstState(system: string): State {
  return { chats: storage.loadChats(local()), open: newChat(newId(), system, Date.now()) };
}

/** Writes what is new and removes what is gone. Returns the chats that did not fit, null where there was nothing to write. */
function saveChanged(chats: Chat[], saved: Map<string, Chat>): string[] | null {
  const ids = new Set(chats.map((chat) => chat.id));
  for (const id of saved.keys()) {
    if (ids.has(id)) continue;
    storage.deleteChat(local(), id);
    saved.delete(id);
  }
  // An answer is written when it begins and when it ends, not for every word.
  const changed = chats.filter((chat) => saved.get(chat.id) !== chat && !isStreaming(chat));
  for (const chat of changed) saved.set(chat.id, chat);
  return changed.length === 0
    ? null
    : changed.filter((chat) => !storage.saveChat(local(), chat)).map((chat) => chat.id);
}

function isStreaming(chat: Chat): boolean {
  const last = chat.messages.at(-1);
  return last?.role === "assistant" && last.status === "streaming";
}

const local = () => storeOr(() => localStorage, memoryLocal);
const session = () => storeOr(() => sessionStorage, memorySession);
const memoryLocal = memoryStore();
const memorySession = memoryStore();

/** With cookies blocked even naming localStorage throws: then everything lasts until the page is closed. */
function storeOr(get: () => Storage, memory: storage.TextStore): storage.TextStore {
  try {
    return get();
  } catch {
    return memory;
  }
}

function memoryStore(): storage.TextStore {
  const entries = new Map<string, string>();
  return {
    getItem: (key) => entries.get(key) ?? null,
    setItem: (key, value) => void entries.set(key, value),
    removeItem: (key) => void entries.delete(key),
    key: (index) => [...entries.keys()][index] ?? null,
    get length() {
      return entries.size;
    },
  };
}
