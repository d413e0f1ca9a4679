/** LoRA (Hu et al. 2021): y += s B A dropout(x) beside a frozen linear layer; s = alpha / r, or alpha / sqrt(r) for rsLoRA.
 *  Always: A and B lie in flat blocks of their own; u = s A dropout(x) is computed again in backward instead of kept.
 *  In fused matrices (q, k, v; gate, up) an adapter has its own columns, which row gathers over [T * N/g, g] move. */
import { layoutOf, type FlatLayout } from "../model/flat_layout.ts";
import type { LlamaConfig } from "../model/config.ts";
import { type AdapterPart, adapterParts, type LoraConfig, loraScale } from "../model/lora.ts";
import { bytesOf, type DType, Tensor } from "../tensor/tensor.ts";
import type { Device } from "../tensor/device.ts";
import { type BlockState, groupView } from "./flat_state.ts";
import { type LinearContext, packInto } from "./linear.ts";
import type { Allocator } from "./memory.ts";
import { mixSeed, type RandomPlace, site } from "./random_place.ts";

/** Flat blocks of the adapters: one a transformer block, names as in the model ("model.layers.0....lora_A.weight"). */
export function adapterLayout(config: LlamaConfig, lora: LoraConfig): FlatLayout {
  return layoutOf(
    Array.from({ length: config.layerCount }, (_, layer) => ({
      name: `adapters of layer ${layer}`,
      list: adapterParts(config, lora, layer).flatMap(({ path, width, K }) => {
        const matrix = (key: "lora_A" | "lora_B", N: number, columns: number) => ({
          key: `${path}.${key}`,
          matrix: [{ name: `model.layers.${layer}.${path}.${key}.weight`, shape: [N, columns] }],
          N,
          K: columns,
        });
        return [matrix("lora_A", lora.rank, K), matrix("lora_B", width, lora.rank)];
      }),
    })),
  );
}

/** Shared by the adapters of all layers. */
export interface AdapterScratch {
  /** dropout(x), then its gradient: [T, K] of the widest input. */
  dropped: Tensor;
  u: Tensor;
  du: Tensor;
  /** By path, where the adapter has part of the columns only. */
  columns: Map<string, ColumnScratch>;
}

/** Moves columns [column, column + width) of [T, N] to and from a matrix of their own. */
interface ColumnScratch {
  /** Piece of g columns that all moves are made of. */
  g: number;
  /** g zeros, then [T, width]. */
  own: Tensor;
  /** [T, N] */
  spread: Tensor;
  takeRows: Tensor;
  spreadRows: Tensor;
}

export function allocateAdapterScratch(
  memory: Allocator,
  parts: AdapterPart[],
  lora: LoraConfig,
  T: number,
  dtype: DType,
): AdapterScratch {
  const columns: AdapterScratch["columns"] = new Map();
  const spreads = new Map<string, Tensor>();
  for (const { path, key, column, width, N } of parts.filter((part) => part.width < part.N)) {
    const g = divisor(divisor(column, width), N);
    const spread = spreads.get(key) ?? memory.tensor([T, N], dtype);
    spreads.set(key, spread);
    columns.set(path, {
      g,
      own: memory.tensor([g + T * width], dtype),
      spread,
      takeRows: memory.tensor([(T * width) / g], "i32"),
      spreadRows: memory.tensor([(T * N) / g], "i32"),
    });
  }
  const widest = Math.max(...parts.map(({ K }) => K));
  return {
    dropped: memory.tensor([T, widest], dtype),
    u: memory.tensor([T, lora.rank], dtype),
    du: memory.tensor([T, lora.rank], dtype),
    columns,
  };
}

/** Fills the index lists of `scratch`; rows ascend with the token, so any shorter batch uses a prefix. */
export function fillAdapterScratch(device: Device, scratch: AdapterScratch, parts: AdapterPart[]): void {
  for (const { path, column, width, N } of parts) {
    const columns = scratch.columns.get(path);
    if (!columns) continue;
    const { g, takeRows, spreadRows } = columns;
    const [pieces, own, first] = [N / g, width / g, column / g];
    const inside = (piece: number) => piece >= first && piece < first + own;
    device.upload(
      takeRows,
      Int32Array.from({ length: takeRows.size }, (_, i) => Math.floor(i / own) * pieces + first + (i % own)),
    );
    device.upload(
      spreadRows,
      Int32Array.from({ length: spreadRows.size }, (_, i) =>
        inside(i % pieces) ? 1 + Math.floor(i / pieces) * own + (i % pieces) - first : 0,
      ),
    );
  }
}

const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

/** The adapters of one linear layer. */
export class Adapters {
  private readonly scale: number;

  /** `context` computes in the activations' type: adapters are thin. */
  constructor(
    private readonly context: LinearContext,
    private readonly state: BlockState,
    private readonly parts: AdapterPart[],
    private readonly lora: LoraConfig,
    private readonly scratch: AdapterScratch,
  ) {
    this.scale = loraScale(lora);
  }

  forward(y: Tensor, x: Tensor, place: RandomPlace | null): void {
    const { ops } = this.context;
    this.parts.forEach((part, i) => {
      const u = this.project(part, this.drop(x, part, i, place));
      const B = packInto(this.context, this.weight(part, "lora_B"), "plain");
      const columns = this.scratch.columns.get(part.path);
      if (!columns) return ops.forward.matmul(y, u, B, null, true);
      const T = x.dim(0);
      const own = section(columns.own, columns.g, [T, part.width]);
      ops.forward.matmul(own, u, B);
      const spread = columns.spread.rows(T);
      const pieces = (T * part.N) / columns.g;
      const source = section(columns.own, 0, [1 + own.size / columns.g, columns.g]);
      ops.forward.gatherRows(spread.reshape([pieces, columns.g]), source, columns.spreadRows.rows(pieces));
      ops.axpby(y, spread, 1, 1);
    });
  }

  /** dx += what flows through the adapters; gradients of A and B are added. */
  backward(dx: Tensor, dy: Tensor, x: Tensor, place: RandomPlace | null): void {
    const { ops, compute } = this.context;
    this.parts.forEach((part, i) => {
      const dz = this.take(dy, part);
      const dropped = this.drop(x, part, i, place);
      const u = this.project(part, dropped);
      ops.matmulWeightGradient(this.gradient(part, "lora_B"), dz, u, compute);
      const du = this.scratch.du.rows(x.dim(0));
      ops.forward.matmul(du, dz, packInto(this.context, this.weight(part, "lora_B"), "transposed"));
      ops.axpby(du, du, this.scale, 0);
      ops.matmulWeightGradient(this.gradient(part, "lora_A"), du, dropped, compute);
      const A = packInto(this.context, this.weight(part, "lora_A"), "transposed");
      if (this.lora.dropout === 0 || !place) return ops.forward.matmul(dx, du, A, null, true);
      ops.forward.matmul(dropped, du, A);
      this.mask(dropped, dropped, i, place);
      ops.axpby(dx, dropped, 1, 1);
    });
  }

  /** u <- s x A^T */
  private project(part: AdapterPart, x: Tensor): Tensor {
    const { ops } = this.context;
    const u = this.scratch.u.rows(x.dim(0));
    ops.forward.matmul(u, x, packInto(this.context, this.weight(part, "lora_A"), "plain"));
    ops.axpby(u, u, this.scale, 0);
    return u;
  }

  private drop(x: Tensor, part: AdapterPart, i: number, place: RandomPlace | null): Tensor {
    if (this.lora.dropout === 0 || !place) return x;
    const dropped = section(this.scratch.dropped, 0, [x.dim(0), part.K]);
    this.mask(dropped, x, i, place);
    return dropped;
  }

  private mask(y: Tensor, x: Tensor, i: number, place: RandomPlace): void {
    const seed = mixSeed(place.seed, site.adapter, ...Buffer.from((this.parts[i] as AdapterPart).path));
    this.context.ops.dropout(y, x, place.firstToken * y.dim(1), seed, this.lora.dropout);
  }

  /** The adapter's columns of dy. */
  private take(dy: Tensor, part: AdapterPart): Tensor {
    const columns = this.scratch.columns.get(part.path);
    if (!columns) return dy;
    const { g } = columns;
    const T = dy.dim(0);
    const own = section(columns.own, g, [(T * part.width) / g, g]);
    this.context.ops.forward.gatherRows(own, dy.reshape([dy.size / g, g]), columns.takeRows.rows(own.dim(0)));
    return own.reshape([T, part.width]);
  }

  private weight(part: AdapterPart, key: "lora_A" | "lora_B"): Tensor {
    return this.view(this.state.w, part, key);
  }

  private gradient(part: AdapterPart, key: "lora_A" | "lora_B"): Tensor {
    if (!this.state.gradient) throw new Error("frozen adapters have no gradient");
    return this.view(this.state.gradient, part, key);
  }

  private view(flat: Tensor, part: AdapterPart, key: "lora_A" | "lora_B"): Tensor {
    const group = this.state.layout.groups.get(`${part.path}.${key}`);
    if (!group) throw new Error(`block ${this.state.layout.name} has no ${part.path}.${key}`);
    return groupView(flat, group);
  }
}

/** `shape` from element `offset` of a tensor's memory on. */
function section(tensor: Tensor, offset: number, shape: number[]): Tensor {
  const part = new Tensor(tensor.data + offset * bytesOf[tensor.dtype], shape, tensor.dtype);
  if (offset + part.size > tensor.size) throw new RangeError(`${part} at ${offset} of ${tensor}`);
  return part;
}
