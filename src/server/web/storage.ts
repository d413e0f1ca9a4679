/** What the browser remembers: chats and settings in localStorage, the API key only for this tab's session.
 *  Always: at most `chatLimit` chats and `chatBytesMax` characters, the oldest go first; unreadable entries are skipped;
 *  a storage that refuses (private mode, full) never breaks the page. One key a chat, so that two tabs do not
 *  overwrite each other's chats. */
import { emptyParams, type ParamForm } from "./params.ts";
import { isRecord } from "./problem.ts";
import type { Answer, Chat, Message } from "./state.ts";

export const chatLimit = 100;
/** Browsers give an origin about 5 MB. */
export const chatBytesMax = 3_000_000;
const chatPrefix = "koala.chat.";
const settingsKey = "koala.settings";
const apiKeyKey = "koala.api-key";

export interface Settings {
  /** "": the server's first model. */
  model: string;
  mode: "chat" | "completion";
  theme: "system" | "light" | "dark";
  params: ParamForm;
  /** The system prompt that a new chat starts with. */
  system: string;
  /** The text of the completion view. */
  draft: string;
}

const defaultSettings: Settings = {
  model: "",
  mode: "chat",
  theme: "system",
  params: emptyParams,
  system: "",
  draft: "",
};

export type TextStore = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

/** Newest first. */
export function loadChats(store: TextStore): Chat[] {
  const chats = chatKeys(store).flatMap((key) => readChat(parse(store.getItem(key))) ?? []);
  return chats.toSorted((a, b) => b.updatedAt - a.updatedAt);
}

/** Returns whether it could be kept. */
export function saveChat(store: TextStore, chat: Chat): boolean {
  const text = JSON.stringify(chat);
  if (text.length > chatBytesMax) return false;
  prune(store, chat.id, text.length);
  for (;;) {
    try {
      store.setItem(chatPrefix + chat.id, text);
      return true;
    } catch {
      if (!removeOldest(store, chat.id)) return false; // full, and nothing of ours left to give up
    }
  }
}

export function deleteChat(store: TextStore, id: string): void {
  store.removeItem(chatPrefix + id);
}

export function isChatKey(key: string | null): boolean {
  return key === null || key.startsWith(chatPrefix); // null: the storage was cleared
}

export function loadSettings(store: TextStore): Settings {
  const value = parse(store.getItem(settingsKey));
  if (!isRecord(value)) return defaultSettings;
  const text = (name: string) => (typeof value[name] === "string" ? value[name] : "");
  const params = isRecord(value["params"]) ? value["params"] : {};
  const form = { ...emptyParams };
  for (const name of Object.keys(form) as (keyof ParamForm)[])
    if (typeof params[name] === "string") form[name] = params[name];
  const theme = text("theme");
  return {
    model: text("model"),
    mode: text("mode") === "completion" ? "completion" : "chat",
    theme: theme === "light" || theme === "dark" ? theme : "system",
    params: form,
    system: text("system"),
    draft: text("draft"),
  };
}

export function saveSettings(store: TextStore, settings: Settings): boolean {
  try {
    store.setItem(settingsKey, JSON.stringify(settings));
    return true;
  } catch {
    return false; // the settings hold until the page is closed
  }
}

export function loadApiKey(session: TextStore): string {
  return session.getItem(apiKeyKey) ?? "";
}

export function saveApiKey(session: TextStore, apiKey: string): void {
  session.setItem(apiKeyKey, apiKey);
}

/** Makes room for a chat of `size` characters. */
function prune(store: TextStore, keepId: string, size: number): void {
  const others = loadChats(store).filter((chat) => chat.id !== keepId);
  let total = size;
  others.forEach((chat, index) => {
    total += store.getItem(chatPrefix + chat.id)?.length ?? 0;
    if (index + 1 >= chatLimit || total > chatBytesMax) deleteChat(store, chat.id);
  });
}

function removeOldest(store: TextStore, keepId: string): boolean {
  const oldest = loadChats(store).findLast((chat) => chat.id !== keepId);
  if (oldest === undefined) return false;
  deleteChat(store, oldest.id);
  return true;
}

function chatKeys(store: TextStore): string[] {
  const keys = Array.from({ length: store.length }, (_, index) => store.key(index));
  return keys.filter((key) => key !== null && key.startsWith(chatPrefix)) as string[];
}

/** Stored text may be of another version or edited by hand: null unless it is a chat. */
function readChat(value: unknown): Chat | null {
  if (!isRecord(value) || typeof value["id"] !== "string" || typeof value["updatedAt"] !== "number")
    return null;
  if (typeof value["system"] !== "string" || !Array.isArray(value["messages"])) return null;
  const messages = value["messages"].map(readMessage);
  if (messages.length === 0 || messages.some((message) => message === null)) return null;
  return {
    id: value["id"],
    system: value["system"],
    updatedAt: value["updatedAt"],
    messages: messages as Message[],
  };
}

function readMessage(value: unknown): Message | null {
  if (!isRecord(value) || typeof value["content"] !== "string") return null;
  if (value["role"] === "user") return { role: "user", content: value["content"] };
  if (value["role"] !== "assistant") return null;
  const answer = value as unknown as Answer; // written by this file; the fields below decide how it is shown
  // The page was closed in the middle of this answer: nobody is streaming it any more.
  const running = answer.status === "waiting" || answer.status === "streaming";
  return {
    role: "assistant",
    content: answer.content,
    status: running ? "stopped" : answer.status,
    finishReason: answer.finishReason ?? null,
    usage: answer.usage ?? null,
    timing: answer.timing ?? null,
    problem: answer.problem ?? null,
    ...(typeof answer.model === "string" ? { model: answer.model } : {}),
  };
}

function parse(text: string | null): unknown {
  try {
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
}
