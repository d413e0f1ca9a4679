/** The Koala prompt format, built from token segments and never as one string: after `GPT:` an answer begins with its
 *  own dummy space (`: ▁Hi`), as in the training data, and what a user types is never a special token.
 *
 *    <s>  BEGINNING OF CONVERSATION: USER: Hello! GPT:  Hi! How can I help you?  </s>  USER: ... GPT:
 *
 *  Each field above is encoded alone. A system message is folded into the first user turn, in front of its text with an
 *  empty line between, since the format has no place for one. Messages of one role in a row are joined by a newline. */
import { RequestError, UsageError } from "../util/errors.ts";
import { plainMessages, type ChatMessage, type PlainMessage } from "./chat_messages.ts";
import type { Segment } from "./segments.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface KoalaOptions {
  /** BOS once at position 0 (default), or none, as EasyLM of April 2023 served it. */
  bos?: "first" | "none";
  /** What asks for the answer: positive `GPT:` (default), negative `An Unhelpful Answer:`, or words of your own. */
  marker?: "positive" | "negative" | (string & {});
  /** What a model that was trained with words of its own understands by positive and negative. */
  wording?: MarkerWording;
  addGenerationPrompt?: boolean;
  continueFinalMessage?: boolean;
}

export interface MarkerWording {
  positive?: string;
  negative?: string;
}

/** A question and its answer; the last may still want one. */
export interface KoalaTurn {
  user: string;
  answer: PlainMessage | null;
  userIndex: number;
  answerIndex: number;
}

const opening = "BEGINNING OF CONVERSATION: ";
/** The words of the original. */
export const koalaMarkers = { user: "USER:", positive: "GPT:", negative: "An Unhelpful Answer:" } as const;

/** The words that stand for `marker`. */
function wordsOf(marker: string, wording: MarkerWording = {}): string {
  return marker === "positive" || marker === "negative" ? (wording[marker] ?? koalaMarkers[marker]) : marker;
}

export function koalaSegments(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: KoalaOptions = {},
): Segment[] {
  const {
    bos = "first",
    marker = "positive",
    addGenerationPrompt = true,
    continueFinalMessage = false,
  } = options;
  const asks = wordsOf(marker, options.wording);
  const encode = (text: string): number[] =>
    tokenizer.encode(text, { addSpecialTokens: false, parseSpecial: false });
  const turns = koalaTurns(plainMessages(messages));
  const segments: Segment[] = [];
  if (bos === "first" && tokenizer.bosId !== null)
    segments.push({ ids: [tokenizer.bosId], loss: 0, source: "template", turn: -1 });
  turns.forEach(({ user, answer, userIndex, answerIndex }, i) => {
    const last = i === turns.length - 1;
    const text = `${i === 0 ? opening : ""}USER: ${user}${answer || addGenerationPrompt ? ` ${asks}` : ""}`;
    segments.push({ ids: encode(text), loss: 0, source: "user", turn: userIndex });
    if (!answer) return;
    segments.push({
      ids: answer.ids ?? encode(answer.content),
      loss: 1,
      source: "assistant",
      turn: answerIndex,
    });
    if (last && continueFinalMessage) return;
    segments.push({ ids: [endOf(tokenizer)], loss: 1, source: "template", turn: answerIndex });
  });
  return segments;
}

/** The same conversation as text, for reading only: encoding it would not give the segments' ids. */
export function koalaText(
  messages: readonly ChatMessage[],
  options: KoalaOptions & { eos?: string | null; bosText?: string | null } = {},
): string {
  const {
    marker = "positive",
    addGenerationPrompt = true,
    continueFinalMessage = false,
    bos = "first",
  } = options;
  const asks = wordsOf(marker, options.wording);
  const turns = koalaTurns(plainMessages(messages));
  const parts = turns.map(({ user, answer }, i) => {
    const ends = i < turns.length - 1 || !continueFinalMessage ? (options.eos ?? "") : "";
    return `USER: ${user}${answer || addGenerationPrompt ? ` ${asks}` : ""}${answer ? answer.content + ends : ""}`;
  });
  return `${bos === "first" ? (options.bosText ?? "") : ""}${opening}${parts.join("")}`;
}

/** The format as a Jinja template, for programs that know no other: one string, whose tokens are those of the segments where
 *  `prependsSpace` says truly whether the tokenizer puts a dummy space in front of a text. System messages are left out. */
export function koalaJinja(
  prependsSpace: boolean,
  { bos = "first", marker = "positive", wording }: KoalaOptions = {},
): string {
  const words = wordsOf(marker, wording);
  // A recipe's words may hold what begins an expression.
  const asks = words.includes("{") ? `{{ ${JSON.stringify(words)} }}` : words;
  return (
    `${bos === "first" ? "{{ bos_token }}" : ""}${opening}{% for message in messages %}` +
    `{% if message['role'] == 'user' %}USER: {{ message['content'] }} ` +
    `{% elif message['role'] == 'assistant' %}${asks}${prependsSpace ? " " : ""}{{ message['content'] }}{{ eos_token }}` +
    `{% endif %}{% endfor %}{% if add_generation_prompt %}${asks}{% endif %}`
  );
}

function endOf(tokenizer: Tokenizer): number {
  const id = tokenizer.specialTokens.eos === null ? undefined : tokenizer.eosIds[0];
  if (id === undefined)
    throw new UsageError(
      "The Koala format ends answers with the end-of-sequence token, and this tokenizer names none.",
    );
  return id;
}

/** Throws a RequestError for what the format cannot say. */
export function koalaTurns(messages: PlainMessage[]): KoalaTurn[] {
  const system = messages.filter((message) => message.role === "system").map((message) => message.content);
  const turns: KoalaTurn[] = [];
  messages.forEach((message, index) => {
    const open = turns.at(-1);
    if (message.role === "user") {
      if (open && open.answer === null) open.user += `\n${message.content}`;
      else turns.push({ user: message.content, answer: null, userIndex: index, answerIndex: -1 });
    } else if (message.role === "assistant") {
      if (!open)
        throw new RequestError("The Koala format begins with a user message, not with an answer.", {
          param: "messages",
        });
      open.answer = open.answer ? joined(open.answer, message) : message;
      open.answerIndex = index;
    } else if (message.role !== "system") {
      throw new RequestError(`The Koala format has no ${message.role} messages.`, {
        param: `messages[${index}].role`,
      });
    }
  });
  const [first] = turns;
  if (!first) throw new RequestError("The Koala format needs a user message.", { param: "messages" });
  if (system.length > 0) first.user = `${system.join("\n")}\n\n${first.user}`;
  return turns;
}

const joined = (before: PlainMessage, after: PlainMessage): PlainMessage => ({
  role: "assistant",
  content: `${before.content}\n${after.content}`,
});
