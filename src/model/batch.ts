/** T tokens of S sequences laid end to end, with positions, cache slots and page tables. Serving and training both speak this.
 *  Always: starts ascends from 0 to T; the last query of sequence s is its token lengths[s] - 1. */
import type { Arena } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import type { PagedSequences } from "../tensor/ops.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { LoraWeights } from "./lora_weights.ts";

export interface Batch {
  T: number;
  S: number;
  /** i32 [T] each. */
  tokens: Tensor;
  positions: Tensor;
  /** page * pageSize + offset, where each token's key and value go. */
  slots: Tensor;
  sequences: PagedSequences;
  /** Token rows that have an adapter, each group once; the others have none. */
  adapters: readonly AdapterRows[];
}

/** Tokens [first, first + count) of a batch. */
export interface AdapterRows {
  weights: LoraWeights;
  first: number;
  count: number;
}

/** One sequence's part of a batch. */
export interface BatchRow {
  tokens: ArrayLike<number>;
  /** Tokens already in the cache. */
  past: number;
  pages: ArrayLike<number>;
  /** null or absent: the base alone. Rows of one adapter stand together. */
  adapter?: LoraWeights | null;
}

/** Host and device memory for the largest batch, filled anew each step. */
export class BatchBuffers {
  private readonly host: Record<
    "tokens" | "positions" | "slots" | "starts" | "lengths" | "pages",
    Int32Array
  >;
  private readonly onDevice: Record<
    "tokens" | "positions" | "slots" | "starts" | "lengths" | "pages",
    Tensor
  >;
  private readonly device: Device;

  constructor(
    arena: Arena,
    private readonly limits: { tokens: number; rows: number; pagesPerRow: number; pageSize: number },
  ) {
    const { tokens: T, rows: S, pagesPerRow: M } = limits;
    const sizes = { tokens: T, positions: T, slots: T, starts: S + 1, lengths: S, pages: S * M };
    const each = <V>(make: (size: number) => V) =>
      Object.fromEntries(Object.entries(sizes).map(([name, size]) => [name, make(size)])) as Record<
        keyof typeof sizes,
        V
      >;
    this.device = arena.device;
    this.host = each((size) => new Int32Array(size));
    this.onDevice = each((size) => arena.tensor([size], "i32"));
  }

  /** Bytes of arena that the constructor takes for these limits. */
  static bytes({ tokens, rows, pagesPerRow }: { tokens: number; rows: number; pagesPerRow: number }): number {
    return (tokens * 3 + rows * (2 + pagesPerRow) + 1) * 4 + 6 * 64;
  }

  /** Pages that the longest row needs. */
  pagesOf(rows: readonly BatchRow[]): number {
    const { pageSize } = this.limits;
    return rows.reduce(
      (most, row) => Math.max(most, Math.ceil((row.past + row.tokens.length) / pageSize)),
      1,
    );
  }

  /** `M` columns of the page table may be more than the rows need: results do not depend on it. */
  fill(rows: readonly BatchRow[], M = this.pagesOf(rows)): Batch {
    const { host, limits } = this;
    let T = 0;
    if (rows.length > limits.rows || M > limits.pagesPerRow) {
      throw new RangeError(
        `batch of ${rows.length} rows with ${M} pages each; limits are ${limits.rows} and ${limits.pagesPerRow}`,
      );
    }
    rows.forEach((row, s) => {
      if (T + row.tokens.length > limits.tokens)
        throw new RangeError(`batch of more than ${limits.tokens} tokens`);
      host.starts[s] = T;
      host.lengths[s] = row.past + row.tokens.length;
      for (let i = 0; i < M; i++) host.pages[s * M + i] = row.pages[i] ?? 0;
      for (let i = 0; i < row.tokens.length; i++, T++) this.place(T, row, i);
    });
    host.starts[rows.length] = T;
    return { ...this.upload(T, rows.length, M), adapters: adapterRows(rows) };
  }

  private place(t: number, row: BatchRow, i: number): void {
    const position = row.past + i;
    const page = row.pages[Math.floor(position / this.limits.pageSize)];
    if (page === undefined) throw new RangeError(`position ${position} has no page`);
    this.host.tokens[t] = row.tokens[i] as number;
    this.host.positions[t] = position;
    this.host.slots[t] = page * this.limits.pageSize + (position % this.limits.pageSize);
  }

  private upload(T: number, S: number, M: number): Omit<Batch, "adapters"> {
    const send = (name: keyof typeof this.host, count: number): Tensor => {
      const tensor = this.onDevice[name].rows(count);
      this.device.upload(tensor, this.host[name], count);
      return tensor;
    };
    const pages = send("pages", S * M);
    return {
      T,
      S,
      tokens: send("tokens", T),
      positions: send("positions", T),
      slots: send("slots", T),
      sequences: {
        starts: send("starts", S + 1),
        lengths: send("lengths", S),
        pages: pages.reshape([S, M]),
        pageSize: this.limits.pageSize,
      },
    };
  }
}

/** Neighbours of equal adapter are one group. */
function adapterRows(rows: readonly BatchRow[]): AdapterRows[] {
  const groups: AdapterRows[] = [];
  let first = 0;
  let before: LoraWeights | null = null;
  for (const { adapter = null, tokens } of rows) {
    if (adapter !== null && adapter === before) (groups.at(-1) as AdapterRows).count += tokens.length;
    else if (adapter !== null) groups.push({ weights: adapter, first, count: tokens.length });
    before = adapter;
    first += tokens.length;
  }
  return groups;
}
