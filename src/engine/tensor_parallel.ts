/** A runner whose model several ranks hold together: rank 0 schedules, samples and answers; the others follow. Before each step
 *  rank 0 tells them its rows, then all run the same batch on their shares.
 *  Always: ranks run the same things in the same order; one that fails fails all, and for good. */
import { LoraWeights } from "../model/lora_weights.ts";
import type { Shard } from "../model/shard.ts";
import type { ShardedLlama } from "../model/sharded_llama.ts";
import { Channel } from "../tensor/channel.ts";
import { CollectiveError, type Communicator } from "../tensor/communicator.ts";
import type { Device } from "../tensor/device.ts";
import { type DType, dtypeCode } from "../tensor/tensor.ts";
import { UsageError } from "../util/errors.ts";
import { LlamaRunner, type RunnerLimits } from "./llama_runner.ts";
import type { AdapterWeights, StepResult, StepRow } from "./runner.ts";

/** One rank's place among those that run a model together. */
export interface RankGroup extends Shard {
  device: Device;
  /** For the sums of every layer; what does not end in time hangs. */
  sums: Communicator;
  /** For what rank 0 tells, from memory of the host to memory of the host. Those who hear wait without a limit: nobody may ask
   *  for hours. */
  steps: Communicator;
  /** Returns when every rank has loaded its share, however long its disk takes. Throws where one could not. */
  loaded(): Promise<void>;
}

/** The first number of a message. */
const kinds = { step: 1, head: 2, loadAdapter: 3, closeAdapter: 4, end: 5 } as const;

/** What every rank knows an adapter by; 0: none. */
type AdapterNumber = number;

/** Rank 0's runner. */
export class LeadingRunner extends LlamaRunner {
  private readonly channel: Channel;
  private readonly adapters = new Map<AdapterWeights, AdapterNumber>();
  private adapterCount = 0;

  constructor(
    model: ShardedLlama,
    limits: RunnerLimits,
    private readonly group: RankGroup,
  ) {
    super(model, limits);
    this.channel = new Channel(group.steps);
    model.onHead = (places, dtype) =>
      this.channel.tell(2 + places.length, (message) => {
        message.set([kinds.head, dtypeCode[dtype]]);
        message.set(places, 2);
      });
  }

  override step(rows: StepRow[]): StepResult[] {
    return this.together(() => {
      this.tellRows(rows);
      return super.step(rows);
    });
  }

  override logitsOf(row: StepRow): Float32Array {
    return this.together(() => {
      this.tellRows([row]);
      return super.logitsOf(row);
    });
  }

  /** Rank 0 reads it first, between its steps; the others then find the file in memory, and steps wait for them. */
  override async loadAdapter(directory: string): Promise<LoraWeights> {
    const weights = await super.loadAdapter(directory);
    const number = ++this.adapterCount;
    const name = new TextEncoder().encode(directory);
    this.channel.tell(2 + name.length, (message) => {
      message.set([kinds.loadAdapter, number]);
      message.set(name, 2);
    });
    const loaded = this.group.steps.exchange(Float64Array.of(1), { of: "an adapter" });
    weights.onClose = () => this.forget(weights, number);
    const without = loaded.indexOf(0);
    if (without >= 0) {
      weights.close();
      throw new UsageError(
        `Rank ${without} of ${this.group.world} cannot load ${directory}; its memory may be full, or the files have changed.`,
      );
    }
    this.adapters.set(weights, number);
    return weights;
  }

  override close(): void {
    this.channel.tell(1, (message) => (message[0] = kinds.end));
    super.close();
  }

  private forget(weights: LoraWeights, number: AdapterNumber): void {
    this.adapters.delete(weights);
    try {
      this.channel.tell(2, (message) => message.set([kinds.closeAdapter, number]));
    } catch (error) {
      // Of ranks that are lost nobody holds anything; the next step says so.
      if (!(error instanceof CollectiveError)) throw error;
    }
  }

  private tellRows(rows: readonly StepRow[]): void {
    const { pageSize } = this;
    const numbers = rows.map(({ adapter }) => (adapter == null ? 0 : this.numberOf(adapter)));
    const count = rows.reduce((sum, row) => sum + 3 + row.tokens.length + pagesOf(row, pageSize), 2);
    this.channel.tell(count, (message) => writeRows(message, rows, numbers, pageSize));
  }

  private numberOf(adapter: AdapterWeights): AdapterNumber {
    const number = this.adapters.get(adapter);
    if (number === undefined) throw new Error("a row has an adapter that the other ranks do not hold");
    return number;
  }

  /** The others are in the middle of what failed here, so there is no going on. */
  private together<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (error instanceof CollectiveError) throw error;
      this.group.sums.abort();
      this.group.steps.abort();
      const why = error instanceof Error ? error.message : String(error);
      throw new CollectiveError(`A step of ${this.group.world} ranks failed on rank 0: ${why}`);
    }
  }
}

/** Pages that hold the row's tokens. */
const pagesOf = ({ past, tokens }: Pick<StepRow, "past" | "tokens">, pageSize: number): number =>
  Math.ceil((past + tokens.length) / pageSize);

/** [kind, rows, then of each: adapter, past, tokens, the tokens, the pages]. */
function writeRows(
  message: Int32Array,
  rows: readonly StepRow[],
  adapters: readonly AdapterNumber[],
  pageSize: number,
): void {
  message[0] = kinds.step;
  message[1] = rows.length;
  let at = 2;
  for (const [i, row] of rows.entries()) {
    const { past, tokens, pages } = row;
    message[at++] = adapters[i] as number;
    message[at++] = past;
    message[at++] = tokens.length;
    for (let t = 0; t < tokens.length; t++) message[at++] = tokens[t] as number;
    const pageCount = pagesOf(row, pageSize);
    for (let p = 0; p < pageCount; p++) message[at++] = pages[p] as number;
  }
}

function readRows(
  message: Int32Array,
  adapters: ReadonlyMap<AdapterNumber, LoraWeights>,
  pageSize: number,
): StepRow[] {
  let at = 2;
  const next = () => message[at++] as number;
  return Array.from({ length: message[1] as number }, (): StepRow => {
    const adapter = adapters.get(next()) ?? null;
    const past = next();
    const tokens = Array.from({ length: next() }, next);
    const pages = Array.from({ length: pagesOf({ past, tokens }, pageSize) }, next);
    return { tokens, past, pages, sample: null, score: null, embed: false, adapter };
  });
}

/** Every other rank's day; returns when rank 0 has closed its runner. Throws where rank 0, or a step, is lost. */
export async function follow(runner: LlamaRunner, model: ShardedLlama, steps: Communicator): Promise<void> {
  const channel = new Channel(steps);
  const adapters = new Map<AdapterNumber, LoraWeights>();
  for (;;) {
    const message = channel.hear();
    const [kind, number = 0] = message;
    switch (kind) {
      case kinds.step:
        runner.step(readRows(message, adapters, runner.pageSize));
        break;
      case kinds.head:
        model.headOf(message.slice(2), dtypeOf(number));
        break;
      case kinds.loadAdapter: {
        const weights = await runner.loadAdapter(textOf(message.subarray(2))).catch(() => null);
        if (weights !== null) adapters.set(number, weights);
        steps.exchange(Float64Array.of(weights === null ? 0 : 1), { of: "an adapter" });
        break;
      }
      case kinds.closeAdapter:
        adapters.get(number)?.close();
        adapters.delete(number);
        break;
      case kinds.end:
        return runner.close();
      default:
        throw new Error(`rank 0 tells ${message.length} numbers of kind ${kind}`);
    }
  }
}

const textOf = (bytes: Int32Array): string => new TextDecoder().decode(Uint8Array.from(bytes));

const dtypeOf = (code: number): DType =>
  code === dtypeCode.f64 ? "f64" : code === dtypeCode.bf16 ? "bf16" : "f32";
