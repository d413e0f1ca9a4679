/** Finds what the model wrote in a conversation that a Jinja template renders, without guessing from token ids: the
 *  conversation is rendered up to each question and up to each answer, and an answer is the difference.
 *  Always: a prompt has the ids that the engine gets for it, and an answer those that the engine would have to generate. */
import type { Segment } from "../text/segments.ts";
import type { ChatTemplate } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Tool } from "../text/tool_formats.ts";
import { RecordFault, type TrainingMessage } from "./record.ts";

export interface JinjaConversation {
  template: ChatTemplate;
  tokenizer: Tokenizer;
  messages: readonly TrainingMessage[];
  tools: readonly Tool[];
  /** The loss weight of message i. */
  weightOf: (index: number) => number;
}

export interface JinjaSegments {
  segments: Segment[];
  /** The template rewrites earlier turns (Qwen3 takes thoughts out), so only the last answer is trained on. */
  lastTurnOnly: boolean;
}

export function jinjaSegments(conversation: JinjaConversation): JinjaSegments {
  const answers = conversation.messages.flatMap(({ role }, i) => (role === "assistant" ? [i] : []));
  const whole = chain(conversation, answers);
  if (whole) return { segments: whole, lastTurnOnly: false };
  const last = chain(conversation, answers.slice(-1));
  if (last) return { segments: last, lastTurnOnly: answers.length > 1 };
  throw new RecordFault(
    "the chat template renders the last answer differently from the prompt that asks for it",
  );
}

/** Prompt, answer, prompt, answer: each the tail of the next rendering; null where a rendering does not begin with the one
 *  before it. */
function chain(conversation: JinjaConversation, answers: readonly number[]): Segment[] | null {
  const { messages } = conversation;
  const segments: Segment[] = [];
  let before = new Rendering(conversation, 0, false);
  for (const answer of answers) {
    const prompt = new Rendering(conversation, answer, true);
    const asked = tail(conversation, before, prompt);
    if (asked === null) return null;
    const source = messages[answer - 1]?.role ?? "template";
    segments.push({ ids: asked, loss: 0, source, turn: answer - 1 });
    const full = new Rendering(conversation, answer + 1, false);
    const written = tail(conversation, prompt, full);
    if (written === null) return null;
    segments.push(...answerSegments(conversation, written, answer));
    before = full;
  }
  return segments.filter((segment) => segment.ids.length > 0);
}

/** Generation stops at the first stop token: what a template writes behind it (ChatML's newline) is never generated. */
function answerSegments({ template, weightOf }: JinjaConversation, ids: number[], answer: number): Segment[] {
  const stop = ids.findIndex((id) => template.stopIds.includes(id));
  const end = stop < 0 ? ids.length : stop + 1;
  return [
    { ids: ids.slice(0, end), loss: weightOf(answer), source: "assistant", turn: answer },
    { ids: ids.slice(end), loss: 0, source: "template", turn: -1 },
  ];
}

/** The first `count` messages, as the engine sees them; ids and text are made when they are asked for. */
class Rendering {
  private cachedIds: number[] | null = null;

  constructor(
    private readonly conversation: JinjaConversation,
    private readonly count: number,
    private readonly asks: boolean,
  ) {}

  get ids(): number[] {
    if (this.count === 0 && !this.asks) return [];
    return (this.cachedIds ??= this.conversation.template
      .render(this.messages, this.options)
      .flatMap((segment) => segment.ids));
  }

  get text(): string {
    if (this.count === 0 && !this.asks) return "";
    return this.conversation.template.renderText(this.messages, this.options);
  }

  private get messages(): TrainingMessage[] {
    return this.conversation.messages.slice(0, this.count).map(({ weight: _weight, ...message }) => message);
  }

  private get options() {
    // A fixed date: the same data gives the same tokens tomorrow.
    return { tools: this.conversation.tools, addGenerationPrompt: this.asks, date: trainingDate };
  }
}

const trainingDate = new Date(Date.UTC(2023, 3, 3));

/** The ids that come after `before` in `after`. Where a token crosses the border (a newline of the prompt and one of the
 *  answer), the difference is taken as text and encoded alone: the prompt's tokens are settled before an answer begins. */
function tail(
  { tokenizer, messages }: JinjaConversation,
  before: Rendering,
  after: Rendering,
): number[] | null {
  if (before.ids.every((id, i) => id === after.ids[i])) return after.ids.slice(before.ids.length);
  const [start, whole] = [before.text, after.text];
  if (!whole.startsWith(start)) return null;
  const written = JSON.stringify(messages);
  if (tokenizer.specialLiterals.some((literal) => written.includes(literal)))
    throw new RecordFault(
      "a token crosses the border of a turn, and the messages hold a special token's literal",
    );
  const text = whole.slice(start.length);
  const ids = tokenizer.encode(text, { addSpecialTokens: false, parseSpecial: true });
  if (exactText(tokenizer, ids) !== text)
    throw new RecordFault("a token crosses the border of a turn and the answer cannot be tokenised alone");
  return ids;
}

/** What the ids stand for in the middle of a text, where decoders take no space off. */
function exactText(tokenizer: Tokenizer, ids: readonly number[]): string {
  const bytes = ids.map((id) =>
    tokenizer.isSpecial(id) ? Buffer.from(tokenizer.tokenString(id)) : tokenizer.tokenBytes(id),
  );
  return Buffer.concat(bytes).toString();
}
