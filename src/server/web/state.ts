/** The page's state and every way it changes, as pure functions: (state, action) to state.
 *  Always: at most one answer is streaming; answers and questions alternate, a question first; editing or regenerating
 *  drops what came after, because the model would not have said it. */
import type { Usage, WireMessage } from "./client.ts";
import type { Problem } from "./problem.ts";

export interface Timing {
  /** From the request to the first text. */
  firstTextMs: number;
  /** From the first text to the last. */
  textMs: number;
}

export interface Question {
  role: "user";
  content: string;
}

export interface Answer {
  role: "assistant";
  content: string;
  status: "waiting" | "streaming" | "done" | "stopped" | "failed";
  finishReason: string | null;
  usage: Usage | null;
  timing: Timing | null;
  problem: Problem | null;
  /** Who answered, where it is known. */
  model?: string;
}

export type Message = Question | Answer;

export interface Chat {
  id: string;
  system: string;
  messages: Message[];
  updatedAt: number;
}

export interface State {
  /** Newest first; chats without a message are not kept. */
  chats: Chat[];
  open: Chat;
}

export type Action =
  | { type: "new"; id: string; now: number }
  | { type: "open"; id: string }
  | { type: "delete"; id: string; newId: string; now: number }
  | { type: "system"; text: string }
  /** The chats as another tab has left them. */
  | { type: "synced"; chats: Chat[] }
  /** `at`: the index that the new question takes; everything from there on is dropped. */
  | { type: "ask"; text: string; at: number; now: number }
  /** Answer again: the answer at this index and everything after it is dropped. */
  | { type: "regenerate"; at: number; now: number }
  | AnswerAction;

/** They concern the last message of a chat, if it is an unfinished answer. The chat need not be open any more: leaving it
 *  stops the answer, and the end arrives a moment later. */
export type AnswerAction = { chatId: string; now: number; model?: string } & AnswerChange;

export type AnswerChange =
  | { type: "text"; text: string }
  | { type: "finish"; reason: string | null; usage: Usage | null; timing: Timing | null }
  | { type: "stop"; timing: Timing | null }
  | { type: "fail"; problem: Problem };

export function reduce(state: State, action: Action): State {
  switch (action.type) {
    case "new":
      return { ...state, open: newChat(action.id, state.open.system, action.now) };
    case "open":
      return { ...state, open: state.chats.find((chat) => chat.id === action.id) ?? state.open };
    case "delete": {
      const chats = state.chats.filter((chat) => chat.id !== action.id);
      return {
        chats,
        open: state.open.id === action.id ? newChat(action.newId, state.open.system, action.now) : state.open,
      };
    }
    case "system":
      return kept(state, { ...state.open, system: action.text });
    case "synced": {
      const others = action.chats.filter((chat) => chat.id !== state.open.id);
      return sorted(state.open.messages.length > 0 ? [state.open, ...others] : others, state.open);
    }
    case "ask": {
      const question: Question = { role: "user", content: action.text };
      const messages = [...state.open.messages.slice(0, action.at), question, emptyAnswer()];
      return kept(state, { ...state.open, messages, updatedAt: action.now });
    }
    case "regenerate": {
      const messages = [...state.open.messages.slice(0, action.at), emptyAnswer()];
      return kept(state, { ...state.open, messages, updatedAt: action.now });
    }
    case "text":
    case "finish":
    case "stop":
    case "fail":
      return withAnswer(state, action);
    default:
      return action satisfies never;
  }
}

export function newChat(id: string, system: string, now: number): Chat {
  return { id, system, messages: [], updatedAt: now };
}

export function isBusy(chat: Chat): boolean {
  return isRunning(chat.messages.at(-1));
}

export function isRunning(message: Message | undefined): boolean {
  return message?.role === "assistant" && (message.status === "waiting" || message.status === "streaming");
}

/** What the model is sent for the last answer. Answers that produced nothing (an error, a stop before the first word) are
 *  left out together with their question, so that roles go on alternating. */
export function wireMessages(chat: Chat): WireMessage[] {
  const system: WireMessage[] = chat.system.trim() === "" ? [] : [{ role: "system", content: chat.system }];
  const past = isRunning(chat.messages.at(-1)) ? chat.messages.slice(0, -1) : chat.messages;
  const dialogue = past.filter((message, index) => {
    const answer = message.role === "assistant" ? message : past[index + 1];
    return answer === undefined || answer.content !== "";
  });
  return [...system, ...dialogue.map(({ role, content }) => ({ role, content }))];
}

/** The first words of the first question. */
export function titleOf(chat: Chat): string {
  const text = (chat.messages[0]?.content ?? "").replace(/\s+/g, " ").trim();
  if (text === "") return "New chat";
  return text.length <= 60 ? text : `${text.slice(0, 59).trimEnd()}…`;
}

/** Tokens per second between the first token and the last; null where there is no interval to measure. */
export function tokensPerSecond(answer: Answer): number | null {
  const { usage, timing } = answer;
  if (usage === null || timing === null || usage.completionTokens < 2 || timing.textMs <= 0) return null;
  return ((usage.completionTokens - 1) * 1000) / timing.textMs;
}

export function emptyAnswer(): Answer {
  return {
    role: "assistant",
    content: "",
    status: "waiting",
    finishReason: null,
    usage: null,
    timing: null,
    problem: null,
  };
}

/** An unfinished answer after one change; the completion view uses it too. */
export function changeAnswer(answer: Answer, change: AnswerChange): Answer {
  switch (change.type) {
    case "text":
      return { ...answer, status: "streaming", content: answer.content + change.text };
    case "finish":
      return {
        ...answer,
        status: "done",
        finishReason: change.reason,
        usage: change.usage,
        timing: change.timing,
      };
    case "stop":
      return { ...answer, status: "stopped", timing: change.timing };
    case "fail":
      return { ...answer, status: "failed", problem: change.problem };
    default:
      return change satisfies never;
  }
}

function withAnswer(state: State, action: AnswerAction): State {
  const chat =
    state.open.id === action.chatId ? state.open : state.chats.find(({ id }) => id === action.chatId);
  const last = chat?.messages.at(-1);
  if (chat === undefined || last?.role !== "assistant" || !isRunning(last)) return state;
  const answer = changeAnswer(last, action);
  const named = action.model === undefined ? answer : { ...answer, model: action.model };
  const messages = [...chat.messages.slice(0, -1), named];
  const changed = { ...chat, messages, updatedAt: action.type === "text" ? chat.updatedAt : action.now };
  return kept(state, changed, chat === state.open ? changed : state.open);
}

/** The list with this chat in its new form; a chat without messages stays out of the list. */
function kept(state: State, chat: Chat, open: Chat = chat): State {
  if (chat.messages.length === 0) return { ...state, open };
  return sorted([chat, ...state.chats.filter(({ id }) => id !== chat.id)], open);
}

function sorted(chats: Chat[], open: Chat): State {
  return { chats: chats.toSorted((a, b) => b.updatedAt - a.updatedAt), open };
}
