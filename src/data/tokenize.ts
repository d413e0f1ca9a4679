/** Records to token segments with loss, through the same templates and tokenizer that serve the model.
 *  Always: whether a token is trained on is known from who wrote it, never from its id; the token that ends a trained answer
 *  is trained with it; what a user typed is never a special token. */
import { RequestError, UsageError } from "../util/errors.ts";
import { koalaSegments, type KoalaOptions } from "../text/koala_template.ts";
import type { Segment } from "../text/segments.ts";
import type { ChatTemplate } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Tool } from "../text/tool_formats.ts";
import { documentsOf, isLabelled, isPair, tokenCount, type Example, type PairExample } from "./example.ts";
import { jinjaSegments } from "./jinja_spans.ts";
import {
  RecordFault,
  type ChatRecord,
  type FieldsRecord,
  type LabelledRecord,
  type PreferenceRecord,
  type TrainingMessage,
  type TrainingRecord,
} from "./record.ts";

export interface TokenizeOptions {
  /** "sft" makes documents, "dpo" pairs, "kto" answers with labels. */
  method: "sft" | "dpo" | "kto";
  sequenceLength: number;
  /** Longer documents: refused (and dropped where that is allowed), dropped, or cut behind the last answer that fits. */
  truncation: "refuse" | "drop" | "cut";
  /** Preference records under "sft": both sides, told apart by markers (the Koala format only), or the chosen one alone. */
  preference: "condition" | "chosen";
  /** Conditioning: marker and loss on what differs between the sides (default), or on every answer of the conversation. */
  conditioning: "suffix" | "conversation";
  /** Koala format: BOS and the marker of conversations and of chosen sides. */
  bos: NonNullable<KoalaOptions["bos"]>;
  marker: string;
  /** Marker of rejected sides. */
  negativeMarker: string;
}

export const tokenizeDefaults: TokenizeOptions = {
  method: "sft",
  sequenceLength: 2048,
  truncation: "refuse",
  preference: "condition",
  conditioning: "suffix",
  bos: "first",
  marker: "positive",
  negativeMarker: "negative",
};

/** What was done to a record's documents and belongs in the report. */
export type Note = "last turn only" | "too long" | "dropped as too long" | "cut";

export interface Tokenized {
  examples: Example[];
  notes: Note[];
}

export class RecordTokenizer {
  constructor(
    readonly tokenizer: Tokenizer,
    /** Conversations need one; plain text and fields do not. */
    readonly template: ChatTemplate | null,
    readonly options: TokenizeOptions,
  ) {
    if (template?.source === null && template.name === "koala-negative")
      this.options = { ...options, marker: "negative" };
  }

  /** Throws a RecordFault for a record that must be dropped. */
  tokenize(record: TrainingRecord): Tokenized {
    const notes: Note[] = [];
    let examples: Example[];
    try {
      examples = this.examplesOf(record, notes);
    } catch (error) {
      // The template refuses what the API would refuse, too.
      if (error instanceof RequestError)
        throw new RecordFault(`the chat template refuses it: ${error.message}`);
      throw error;
    }
    return {
      examples: examples.flatMap((example) => this.fitted(example, notes)).map(withFirstMasked),
      notes,
    };
  }

  private examplesOf(record: TrainingRecord, notes: Note[]): Example[] {
    const { method } = this.options;
    if (method === "dpo" && record.kind !== "preference")
      throw new RecordFault("the method dpo needs pairs of answers");
    if (method === "kto") return this.labelled(record, notes);
    switch (record.kind) {
      case "chat":
        return [{ segments: this.marked(record, notes) }];
      case "preference":
        return method === "dpo" ? [this.pair(record, notes)] : this.conditioned(record, notes);
      case "labelled":
        return this.conditionedOnLabel(record, notes);
      case "text":
        return [{ segments: this.text(record.text) }];
      case "fields":
        return [{ segments: this.fields(record) }];
      default:
        return record satisfies never;
    }
  }

  /** Preference conditioning (koala-spec §1.3): what the sides share is context, what differs gets its marker and the loss. */
  private conditioned(record: PreferenceRecord, notes: Note[]): Example[] {
    const { messages, chosen, rejected, tools } = record;
    const trainFrom = this.options.conditioning === "suffix" ? messages.length : 0;
    const side = (suffix: TrainingMessage[], negative: boolean): Example => ({
      segments: this.chat([...messages, ...suffix], tools, { trainFrom, negative }, notes),
    });
    if (this.options.preference === "chosen") return [side(chosen, false)];
    this.refuseWithoutMarkers("Preference conditioning");
    return [side(chosen, false), side(rejected, true)];
  }

  /** A conversation whose record says which marker its answers stand behind. */
  private marked({ messages, tools, marker }: ChatRecord, notes: Note[]): Segment[] {
    const negative = marker === "negative";
    if (negative && this.options.preference === "chosen")
      throw new RecordFault("answers marked negative are left out where only chosen ones are trained on");
    if (negative) this.refuseWithoutMarkers("A record with the negative marker");
    return this.chat(messages, tools, { trainFrom: 0, negative }, notes);
  }

  private refuseWithoutMarkers(what: string): void {
    if (this.templateOrRefuse().source === null) return;
    throw new UsageError(
      `${what} needs a format with markers, and the chat template ${this.template!.name} has none. Use --template koala, --preference chosen, or the method dpo.`,
    );
  }

  /** Under sft a bad answer is the rejected side of a pair without a chosen one. */
  private conditionedOnLabel({ messages, answer, good, tools }: LabelledRecord, notes: Note[]): Example[] {
    if (!good && this.options.preference === "chosen")
      throw new RecordFault("the answer is labelled bad, and preference is chosen");
    const sides = { kind: "preference", messages, chosen: answer, rejected: answer, tools } as const;
    const all = this.conditioned(sides, notes);
    return good ? all.slice(0, 1) : all.slice(1);
  }

  /** A pair has a good and a bad answer. */
  private labelled(record: TrainingRecord, notes: Note[]): Example[] {
    if (record.kind === "preference") {
      const { prompt, chosen, rejected } = this.pair(record, notes);
      return [
        { prompt, answer: chosen, good: true },
        { prompt, answer: rejected, good: false },
      ];
    }
    if (record.kind !== "labelled")
      throw new RecordFault("the method kto needs answers with a label, or pairs of answers");
    const { messages, answer, tools, good } = record;
    const trained = { trainFrom: messages.length, negative: false };
    const segments = this.chat([...messages, ...answer], tools, trained, notes);
    const begin = segments.findIndex((segment) => segment.loss > 0);
    if (begin < 0) throw new RecordFault("the labelled answer has no token to train on");
    return [{ prompt: segments.slice(0, begin), answer: segments.slice(begin), good }];
  }

  private pair({ messages, chosen, rejected, tools }: PreferenceRecord, notes: Note[]): PairExample {
    const trained = { trainFrom: messages.length, negative: false };
    const good = this.chat([...messages, ...chosen], tools, trained, notes);
    const bad = this.chat([...messages, ...rejected], tools, trained, notes);
    const promptEnd = good.findIndex((segment) => segment.loss > 0);
    const prompt = good.slice(0, promptEnd);
    const ids = (segments: Segment[]): string => segments.map((segment) => segment.ids.join()).join();
    if (promptEnd < 0 || ids(prompt) !== ids(bad.slice(0, promptEnd)))
      throw new RecordFault("chosen and rejected differ before their first answer, which a pair cannot say");
    return { prompt, chosen: good.slice(promptEnd), rejected: bad.slice(promptEnd) };
  }

  private chat(
    messages: readonly TrainingMessage[],
    tools: readonly Tool[],
    { trainFrom, negative }: { trainFrom: number; negative: boolean },
    notes: Note[],
  ): Segment[] {
    const template = this.templateOrRefuse();
    const weightOf = (i: number): number => (i < trainFrom ? 0 : (messages[i]?.weight ?? 1));
    if (template.source === null) return this.koala(messages, tools, { trainFrom, negative, weightOf });
    const { tokenizer } = this;
    const { segments, lastTurnOnly } = jinjaSegments({ template, tokenizer, messages, tools, weightOf });
    if (lastTurnOnly) notes.push("last turn only");
    return segments;
  }

  /** Both renderings have the same segments but for the markers, so turns can be taken from one or the other. */
  private koala(
    messages: readonly TrainingMessage[],
    tools: readonly Tool[],
    turns: { trainFrom: number; negative: boolean; weightOf: (index: number) => number },
  ): Segment[] {
    if (tools.length > 0 || messages.some((message) => message.role === "tool" || message.tool_calls))
      throw new RecordFault("the Koala format has no tools");
    const { bos, marker, negativeMarker } = this.options;
    const render = (asks: string): Segment[] =>
      koalaSegments(this.tokenizer, messages, { bos, marker: asks, addGenerationPrompt: false });
    const plain = render(marker);
    const negative = turns.negative ? render(negativeMarker) : plain;
    return plain.map((segment, i) => {
      // A question carries the marker of the answer behind it.
      const turn = segment.source === "user" ? (plain[i + 1]?.turn ?? -1) : segment.turn;
      const chosen = turn >= turns.trainFrom ? negative[i]! : segment;
      return chosen.loss > 0 ? { ...chosen, loss: turns.weightOf(segment.turn) } : chosen;
    });
  }

  private templateOrRefuse(): ChatTemplate {
    if (this.template) return this.template;
    throw new UsageError(
      "The model brings no chat template, and conversations need one. Name it: --template koala, chatml, or a Jinja file.",
    );
  }

  private text(text: string): Segment[] {
    const { tokenizer } = this;
    const ids = tokenizer.encode(text, { parseSpecial: false });
    const segments: Segment[] = [{ ids, loss: 1, source: "text", turn: 0 }];
    const eos = tokenizer.eosIds[0];
    if (eos !== undefined && ids.at(-1) !== eos)
      segments.push({ ids: [eos], loss: 1, source: "template", turn: 0 });
    return segments;
  }

  private fields({ parts }: FieldsRecord): Segment[] {
    const segments: Segment[] = [];
    const first = parts[0]!;
    const { bosId } = this.tokenizer;
    if (this.options.bos === "first" && bosId !== null && !(first.kind === "token" && first.token === "bos"))
      segments.push({ ids: [bosId], loss: 0, source: "template", turn: -1 });
    parts.forEach((part, turn) => {
      const { loss } = part;
      const source = part.kind === "token" ? "template" : loss > 0 ? "assistant" : "user";
      segments.push({ ids: this.fieldIds(part), loss, source, turn });
    });
    return segments;
  }

  private fieldIds(part: FieldsRecord["parts"][number]): number[] {
    const { tokenizer } = this;
    if (part.kind === "text")
      return tokenizer.encode(part.text, { addSpecialTokens: false, parseSpecial: false });
    const ids =
      part.kind === "ids"
        ? part.ids
        : [part.token === "bos" ? tokenizer.bosId : part.token === "eos" ? tokenizer.eosIds[0] : part.token];
    for (const id of ids)
      if (typeof id !== "number" || !(id >= 0 && id < tokenizer.vocabularySize))
        throw new RecordFault("fields names a token that the tokenizer does not have");
    return ids as number[];
  }

  /** A pair must fit into one row together: its sides are compared in one step. */
  private fitted(example: Example, notes: Note[]): Example[] {
    const { sequenceLength, truncation } = this.options;
    const length = documentsOf(example).reduce((sum, segments) => sum + tokenCount(segments), 0);
    if (length <= sequenceLength) return [example];
    const whole = isPair(example) || isLabelled(example);
    const cut = truncation === "cut" && !whole ? cutSegments(example.segments, sequenceLength) : [];
    notes.push(cut.length > 0 ? "cut" : truncation === "refuse" ? "too long" : "dropped as too long");
    return cut.map((segments) => ({ segments }));
  }
}

/** Nothing predicts the first token of a document (that of plain text, or of fields that begin with an answer). */
function withFirstMasked(example: Example): Example {
  if (isPair(example) || isLabelled(example)) return example;
  const [first, ...rest] = example.segments.filter((segment) => segment.ids.length > 0);
  if (!first || first.loss === 0) return example;
  const [head, ...others] = first.ids;
  const masked = { ...first, ids: [head!], loss: 0 };
  return { segments: others.length > 0 ? [masked, { ...first, ids: others }, ...rest] : [masked, ...rest] };
}

/** A conversation is cut behind the last answer that fits; plain text, which has no turns, falls into several documents. */
export function cutSegments(segments: readonly Segment[], sequenceLength: number): Segment[][] {
  if (segments[0]?.source === "text") return slices(segments, sequenceLength);
  let length = 0;
  let end = 0;
  for (const [i, segment] of segments.entries()) {
    length += segment.ids.length;
    if (length > sequenceLength) break;
    const next = segments[i + 1];
    if (segment.loss > 0 && (next === undefined || next.loss === 0)) end = i + 1;
  }
  return end === 0 ? [] : [segments.slice(0, end)];
}

function slices(segments: readonly Segment[], sequenceLength: number): Segment[][] {
  const ids = segments.flatMap((segment) => segment.ids);
  const documents: Segment[][] = [];
  for (let from = 0; from < ids.length; from += sequenceLength)
    documents.push([
      { ids: ids.slice(from, from + sequenceLength), loss: 1, source: "text", turn: documents.length },
    ]);
  return documents;
}
