/** The ops of steps that decode one token a sequence, recorded once for each shape and launched as one call.
 *  Always: a shape runs its ops one by one first, which makes the device's scratch large enough, and is recorded when it
 *  comes again; the bits are the same. At most `limit` shapes are kept, those that came last. */
import { type Device, NativeError } from "../tensor/device.ts";
import { Graph } from "../tensor/graph.ts";

export interface DecodeShape {
  /** Sequences of the step, and its tokens. */
  rows: number;
  /** Pages a row of the page table. */
  pages: number;
  /** Logits of every row are part of it. */
  head: boolean;
}

/** A driver keeps about a megabyte for the few hundred ops of a graph. */
const defaultLimit = 128;

interface Recorded<Result> {
  graph: Graph;
  /** What the ops returned: tensors at the same addresses every time. */
  result: Result;
}

export class DecodeGraphs<Result> {
  /** The shape that came last is the last; null: it came once. */
  private readonly shapes = new Map<string, Recorded<Result> | null>();

  constructor(
    private readonly device: Device,
    private limit = defaultLimit,
  ) {}

  /** Columns of the page table where the longest row has `pages`: a power of two, so that growing rows seldom change the
   *  shape, or `most`. */
  static pagesOf(pages: number, most: number): number {
    return Math.max(pages, Math.min(2 ** Math.ceil(Math.log2(pages)), most));
  }

  /** Does what `ops` does, whose tensors are the same whenever the shape is. */
  run({ rows, pages, head }: DecodeShape, ops: () => Result): Result {
    const key = `${rows} ${pages} ${head}`;
    const known = this.shapes.get(key);
    const recorded = known === null ? this.record(ops) : (known ?? null);
    this.keep(key, recorded);
    if (recorded === null) return ops();
    recorded.graph.launch();
    return recorded.result;
  }

  close(): void {
    for (const recorded of this.shapes.values()) recorded?.graph.close();
    this.shapes.clear();
  }

  /** null where the device has no room for another graph: fewer are kept from then on. */
  private record(ops: () => Result): Recorded<Result> | null {
    let result: Result | undefined;
    try {
      const graph = Graph.record(this.device, () => (result = ops()));
      return { graph, result: result as Result };
    } catch (error) {
      if (!(error instanceof NativeError && error.symbol === "koala_graph_end")) throw error;
      this.limit = [...this.shapes.values()].filter((recorded) => recorded !== null).length;
      console.error(
        `${error.message} From now on ${this.limit} graphs are kept; a smaller --cache-memory leaves room for more.`,
      );
      return null;
    }
  }

  private keep(key: string, recorded: Recorded<Result> | null): void {
    this.shapes.delete(key);
    this.shapes.set(key, recorded);
    for (const [oldest, kept] of this.shapes) {
      if (this.shapes.size <= this.limit) break;
      kept?.graph.close();
      this.shapes.delete(oldest);
    }
  }
}
