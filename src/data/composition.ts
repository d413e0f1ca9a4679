/** What a mixture consists of, a row a source: dialogues, examples, tokens, trained tokens, and the share behind the negative marker.
 *  Always: the sums of the rows are the mixture's; copies count as often as they are there. */
import type { Segment } from "../text/segments.ts";
import { documentsOf, tokenCount } from "./example.ts";
import { fieldsFormat } from "./formats/fields.ts";
import type { Dialogue } from "./dialogue.ts";
import { koalaRecords, type RecordWarts } from "./koala_records.ts";
import { RecordFault } from "./record.ts";
import type { RecordTokenizer } from "./tokenize.ts";

export interface CompositionRow {
  source: string;
  licence: string[];
  /** Different dialogues of the training part. */
  dialogues: number;
  /** What the training part holds, copies and both sides of pairs counted. */
  examples: number;
  tokens: number;
  trainedTokens: number;
  /** Of the examples and of the trained tokens: behind the negative marker. */
  negativeExamples: number;
  negativeTrainedTokens: number;
  /** Dialogues of the evaluation part. */
  evalDialogues: number;
  /** Dialogues that the tokenizer or the template refused. */
  refused: number;
}

export interface Composition {
  name: string;
  rows: CompositionRow[];
}

/** The documents that a dialogue is trained as; none where the template refuses it. */
export interface Measured {
  examples: { tokens: number; trained: number; negative: boolean }[];
  refused: boolean;
}

export function measure(
  dialogue: Dialogue,
  tokenizing: RecordTokenizer,
  warts: RecordWarts | null,
): Measured {
  try {
    const parts =
      warts === null ? plainParts(dialogue, tokenizing) : recordParts(dialogue, tokenizing, warts);
    const trained = (segments: readonly Segment[]): number =>
      segments.reduce((sum, { ids, loss }) => sum + (loss > 0 ? ids.length : 0), 0);
    return {
      examples: parts.map(({ segments, negative }) => ({
        tokens: tokenCount(segments),
        trained: trained(segments),
        negative,
      })),
      refused: parts.length === 0,
    };
  } catch (error) {
    if (error instanceof RecordFault) return { examples: [], refused: true };
    throw error;
  }
}

interface Part {
  segments: Segment[];
  negative: boolean;
}

function plainParts({ record, marker }: Dialogue, tokenizing: RecordTokenizer): Part[] {
  const marked = record.kind === "chat" ? { ...record, marker } : record;
  const documents = tokenizing.tokenize(marked).examples.flatMap(documentsOf);
  const negative = (i: number): boolean => (record.kind === "chat" ? marker === "negative" : i === 1);
  return documents.map((segments, i) => ({ segments, negative: negative(i) }));
}

function recordParts(dialogue: Dialogue, tokenizing: RecordTokenizer, warts: RecordWarts): Part[] {
  return koalaRecords(dialogue, warts).flatMap(({ record, negative }) => {
    const { examples } = tokenizing.tokenize(fieldsFormat.parse({ ...record }, {}).record);
    return examples.flatMap(documentsOf).map((segments) => ({ segments, negative }));
  });
}

export class CompositionCounter {
  private readonly rows: Map<string, CompositionRow>;
  private readonly licences = new Map<string, Set<string>>();

  constructor(
    private readonly name: string,
    sources: readonly string[],
  ) {
    this.rows = new Map(sources.map((source) => [source, emptyRow(source)]));
  }

  train({ source, licence }: Dialogue, copies: number, { examples, refused }: Measured): void {
    const row = this.rows.get(source)!;
    if (licence !== null) this.licences.set(source, (this.licences.get(source) ?? new Set()).add(licence));
    row.dialogues++;
    if (refused) row.refused++;
    for (const { tokens, trained, negative } of examples) {
      row.examples += copies;
      row.tokens += copies * tokens;
      row.trainedTokens += copies * trained;
      if (!negative) continue;
      row.negativeExamples += copies;
      row.negativeTrainedTokens += copies * trained;
    }
  }

  eval({ source }: Dialogue): void {
    this.rows.get(source)!.evalDialogues++;
  }

  finish(): Composition {
    const rows = [...this.rows.values()].map((row) => ({
      ...row,
      licence: [...(this.licences.get(row.source) ?? [])].sort(),
    }));
    return { name: this.name, rows };
  }
}

const emptyRow = (source: string): CompositionRow => ({
  source,
  licence: [],
  dialogues: 0,
  examples: 0,
  tokens: 0,
  trainedTokens: 0,
  negativeExamples: 0,
  negativeTrainedTokens: 0,
  evalDialogues: 0,
  refused: 0,
});

const summed = [
  "dialogues",
  "examples",
  "tokens",
  "trainedTokens",
  "negativeExamples",
  "negativeTrainedTokens",
  "evalDialogues",
  "refused",
] as const;

/** All sources together. */
export function totalRow(rows: readonly CompositionRow[]): CompositionRow {
  const total = emptyRow("all");
  for (const row of rows) for (const name of summed) total[name] += row[name];
  return total;
}
