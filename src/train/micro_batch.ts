/** Documents laid end to end for one forward and backward: tokens, positions and starts, and which rows the loss is on.
 *  Always: positions restart and attention ends at a document's border; a row is selected for the head only if its next
 *  token exists and weighs something, so ignored tokens never pay for logits. */
import type { Device } from "../tensor/device.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Allocator } from "./memory.ts";
import type { RandomPlace } from "./random_place.ts";

/** One document of a step. */
export interface TrainDocument {
  ids: Int32Array;
  /** Of predicting ids[i]; weights[0] is never used. */
  weights: Float32Array;
}

/** A document with the factor that its token weights get in this step's loss. */
export interface PlacedDocument extends TrainDocument {
  factor: number;
}

export interface MicroBatch {
  /** Tokens, documents, selected rows. */
  T: number;
  S: number;
  R: number;
  tokens: Tensor;
  positions: Tensor;
  starts: Tensor;
  /** Positions sorted by token, stably. */
  order: Tensor;
  /** f32 [S] probabilities of forgetting a key; null: none. */
  forget: Tensor | null;
  /** i32 [R]: rows of the batch, and the tokens they predict. */
  selected: Tensor;
  targets: Tensor;
  /** [R], float32 or float64: weight of each prediction in the loss. */
  weights: Tensor;
  /** i32 [T]: place of each row among the selected, R where it is none. */
  scatter: Tensor;
  /** null: nothing random (scores). */
  place: RandomPlace | null;
  /** The host's copies that the loss is summed from; document of each selected row. */
  hostWeights: Float64Array;
  hostDocuments: Int32Array;
}

type IntName = "tokens" | "positions" | "starts" | "order" | "selected" | "targets" | "scatter";

export interface MicroBatchMemory {
  ints: Record<IntName, Tensor>;
  forget: Tensor;
  weights: Tensor;
}

export function allocateMicroBatch(memory: Allocator, T: number, sum: "f32" | "f64"): MicroBatchMemory {
  const int = (size: number) => memory.tensor([size], "i32");
  const ints = {
    tokens: int(T),
    positions: int(T),
    starts: int(T + 1),
    order: int(T),
    selected: int(T),
    targets: int(T),
    scatter: int(T),
  };
  return { ints, forget: memory.tensor([T], "f32"), weights: memory.tensor([T], sum) };
}

/** Uploads `documents`. `forget`: a probability for each document, or null. Throws RangeError for more tokens than allocated. */
export function fillMicroBatch(
  device: Device,
  memory: MicroBatchMemory,
  documents: readonly PlacedDocument[],
  place: RandomPlace | null,
  forget: Float32Array | null = null,
): MicroBatch {
  const T = documents.reduce((sum, { ids }) => sum + ids.length, 0);
  if (T > memory.ints.tokens.size)
    throw new RangeError(`micro-batch of ${T} tokens, memory for ${memory.ints.tokens.size}`);
  const host = layOut(documents, T);
  const R = host.selected.length;
  const send = (name: IntName, values: Int32Array): Tensor => {
    const tensor = memory.ints[name].rows(values.length);
    device.upload(tensor, values);
    return tensor;
  };
  const weights = memory.weights.rows(R);
  device.upload(weights, weights.dtype === "f64" ? host.weights : Float32Array.from(host.weights));
  if (forget) device.upload(memory.forget, forget);
  return {
    T,
    S: documents.length,
    R,
    tokens: send("tokens", host.tokens),
    positions: send("positions", host.positions),
    starts: send("starts", host.starts),
    order: send("order", sortedPositions(host.tokens)),
    forget: forget ? memory.forget.rows(documents.length) : null,
    selected: send("selected", Int32Array.from(host.selected)),
    targets: send("targets", Int32Array.from(host.targets)),
    weights,
    scatter: send("scatter", host.scatter),
    place,
    hostWeights: host.weights,
    hostDocuments: Int32Array.from(host.documents),
  };
}

/** Replaces the weights of the selected rows (DPO knows them only after the forward pass). */
export function setWeights(device: Device, batch: MicroBatch, weights: Float64Array): void {
  batch.hostWeights = weights;
  device.upload(batch.weights, batch.weights.dtype === "f64" ? weights : Float32Array.from(weights));
}

function layOut(documents: readonly PlacedDocument[], T: number) {
  const tokens = new Int32Array(T);
  const positions = new Int32Array(T);
  const starts = new Int32Array(documents.length + 1);
  const scatter = new Int32Array(T);
  const selected: number[] = [];
  const targets: number[] = [];
  const owners: number[] = [];
  const weights: number[] = [];
  let t = 0;
  documents.forEach((document, s) => {
    for (let i = 0; i < document.ids.length; i++, t++) {
      tokens[t] = document.ids[i] as number;
      positions[t] = i;
      const weight = i + 1 < document.ids.length ? (document.weights[i + 1] as number) : 0;
      if (weight === 0) {
        scatter[t] = -1;
        continue;
      }
      scatter[t] = selected.length;
      selected.push(t);
      targets.push(document.ids[i + 1] as number);
      weights.push(weight * document.factor);
      owners.push(s);
    }
    starts[s + 1] = t;
  });
  const R = selected.length;
  for (let i = 0; i < T; i++) if (scatter[i] === -1) scatter[i] = R;
  return {
    tokens,
    positions,
    starts,
    scatter,
    selected,
    targets,
    documents: owners,
    weights: Float64Array.from(weights),
  };
}

/** Positions in order of their token, equal tokens in order of position: sums of gradients get one fixed order. */
function sortedPositions(tokens: Int32Array): Int32Array {
  const keys = Float64Array.from(tokens, (token, t) => token * 2 ** 31 + t).sort();
  return Int32Array.from(keys, (key) => key % 2 ** 31);
}
