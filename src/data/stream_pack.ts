/** EasyLM's packing: documents laid end to end as one stream of tokens, cut into rows anywhere, each row one document for the
 *  model. Rows begin with BOS, and later examples of a row see earlier ones: nothing marks where one ends.
 *  Always: every token of the stream is predicted once, but for those of the last row, which is dropped when it is not full.
 *  Source: EasyLM/data.py of April 2023. There a row had as many targets as positions; here the row's BOS takes one of them,
 *  because a position past the last target predicts nothing. */
import { UsageError } from "../util/errors.ts";
import type { Segment } from "../text/segments.ts";

export class StreamPacker {
  /** Rows given out. */
  rows = 0;
  private ids: number[] = [];
  private losses: number[] = [];

  constructor(
    private readonly sequenceLength: number,
    private readonly bosId: number | null,
    private readonly onRow: (segments: Segment[]) => void,
  ) {
    if (bosId === null)
      throw new UsageError(
        'packing = "stream" begins each row with the begin-of-sequence token, and this tokenizer names none.',
      );
  }

  add(segments: readonly Segment[]): void {
    for (const { ids, loss } of segments)
      for (const id of ids) {
        this.ids.push(id);
        this.losses.push(loss);
      }
    const room = this.sequenceLength - 1;
    let from = 0;
    for (; from + room <= this.ids.length; from += room) {
      this.onRow(this.row(from, from + room));
      this.rows++;
    }
    if (from > 0) {
      this.ids = this.ids.slice(from);
      this.losses = this.losses.slice(from);
    }
  }

  /** Runs of tokens with the same loss become segments. */
  private row(from: number, to: number): Segment[] {
    const segments: Segment[] = [{ ids: [this.bosId!], loss: 0, source: "template", turn: -1 }];
    for (let i = from; i < to; i++) {
      const loss = this.losses[i]!;
      const last = segments.at(-1)!;
      if (segments.length > 1 && last.loss === loss) last.ids.push(this.ids[i]!);
      else segments.push({ ids: [this.ids[i]!], loss, source: "text", turn: -1 });
    }
    return segments;
  }
}
