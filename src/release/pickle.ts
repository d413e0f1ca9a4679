/** Reads the pickles that PyTorch writes, as data: names of Python functions are looked up in a list of six, and nothing is
 *  ever called. A file that names anything else is refused with that name.
 *  The opcodes are those of protocols 2 to 4 as CPython's pickletools documents them. */

/** A tensor as `torch.save` describes it: which storage, and where in it. Counts are in elements. */
export interface PickledTensor {
  kind: "tensor";
  storage: PickledStorage;
  offset: number;
  shape: number[];
  strides: number[];
}

export interface PickledStorage {
  kind: "storage";
  /** FloatStorage, BFloat16Storage ... */
  type: string;
  /** Name of the file in the archive. */
  key: string;
  elements: number;
}

export type Pickled =
  | null
  | boolean
  | number
  | string
  | Pickled[]
  | Map<Pickled, Pickled>
  | PickledTensor
  | PickledStorage
  | PickledName;

interface PickledName {
  kind: "name";
  name: string;
}

/** The message is a part of a sentence: what is wrong with the pickle. */
export class PickleFault extends Error {
  override name = "PickleFault";
}

const storageTypes = /^torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage$/;
const allowed = new Set([
  "collections OrderedDict",
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_parameter",
]);

export function readPickle(bytes: Uint8Array): Pickled {
  return new Machine(bytes).run();
}

/** Between MARK and the opcode that uses it. */
const mark = Symbol("mark");
type Item = Pickled | typeof mark;

class Machine {
  private at = 0;
  private readonly stack: Item[] = [];
  private readonly memo = new Map<number, Pickled>();
  private readonly view: DataView;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  run(): Pickled {
    for (;;) {
      const opcode = String.fromCharCode(this.u8());
      if (opcode === ".") return this.pop();
      const step = this.steps[opcode];
      if (!step)
        throw new PickleFault(
          `it uses the opcode 0x${opcode.charCodeAt(0).toString(16)}, which tensors do not need`,
        );
      step();
    }
  }

  private readonly steps: { [opcode: string]: () => void } = {
    "\x80": () => this.skip(1), // PROTO
    "\x95": () => this.skip(8), // FRAME
    "(": () => this.stack.push(mark),
    "0": () => void this.pop(),
    "1": () => void this.toMark(),
    N: () => this.push(null),
    "\x88": () => this.push(true),
    "\x89": () => this.push(false),
    K: () => this.push(this.u8()),
    M: () => this.push(this.take(2).getUint16(0, true)),
    J: () => this.push(this.take(4).getInt32(0, true)),
    G: () => this.push(this.take(8).getFloat64(0, false)),
    "\x8a": () => this.push(this.long(this.u8())),
    X: () => this.push(this.text(this.u32())),
    "\x8c": () => this.push(this.text(this.u8())),
    "]": () => this.push([]),
    "}": () => this.push(new Map()),
    ")": () => this.push([]),
    "\x85": () => this.push(this.popMany(1)),
    "\x86": () => this.push(this.popMany(2)),
    "\x87": () => this.push(this.popMany(3)),
    t: () => this.push(this.toMark()),
    l: () => this.push(this.toMark()),
    a: () => this.append([this.pop()]),
    e: () => this.append(this.toMark()),
    s: () => this.setItems(this.popMany(2)),
    u: () => this.setItems(this.toMark()),
    q: () => void this.memo.set(this.u8(), this.top()),
    r: () => void this.memo.set(this.u32(), this.top()),
    "\x94": () => void this.memo.set(this.memo.size, this.top()),
    h: () => this.push(this.recall(this.u8())),
    j: () => this.push(this.recall(this.u32())),
    c: () => this.push(this.name(`${this.line()} ${this.line()}`)),
    "\x93": () => this.push(this.name(this.popMany(2).join(" "))),
    Q: () => this.push(storageOf(this.pop())),
    R: () => this.reduce(),
    b: () => void this.pop(), // state of an OrderedDict, such as _metadata: it holds no weights
  };

  private reduce(): void {
    const [callee, args] = this.popMany(2);
    const name = isName(callee) ? callee.name : "something that is no name";
    if (!Array.isArray(args)) throw new PickleFault(`${name} is given no tuple`);
    if (name === "collections OrderedDict") return this.push(new Map());
    if (name === "torch._utils _rebuild_tensor_v2") return this.push(tensorOf(args));
    if (name === "torch._utils _rebuild_parameter") return this.push(args[0] ?? null);
    throw new PickleFault(`it would call ${name}`);
  }

  private name(name: string): PickledName {
    if (allowed.has(name) || storageTypes.test(name)) return { kind: "name", name };
    throw new PickleFault(
      `it names ${name.slice(0, 100).replace(" ", ".")}, which is no part of a checkpoint`,
    );
  }

  private append(items: Pickled[]): void {
    const list = this.top();
    if (!Array.isArray(list)) throw new PickleFault("it appends to something that is no list");
    list.push(...items);
  }

  private setItems(items: Pickled[]): void {
    const table = this.top();
    if (!(table instanceof Map)) throw new PickleFault("it sets items of something that is no dict");
    for (let i = 0; i + 1 < items.length; i += 2) table.set(items[i]!, items[i + 1]!);
  }

  private push(item: Pickled): void {
    this.stack.push(item);
  }

  private pop(): Pickled {
    const item = this.stack.pop();
    if (item === undefined || item === mark) throw new PickleFault("its stack runs empty");
    return item as Pickled;
  }

  private popMany(count: number): Pickled[] {
    return Array.from({ length: count }, () => this.pop()).reverse();
  }

  private toMark(): Pickled[] {
    const from = this.stack.lastIndexOf(mark);
    if (from < 0) throw new PickleFault("its stack has no mark");
    return this.stack.splice(from).slice(1) as Pickled[];
  }

  private top(): Pickled {
    const item = this.stack.at(-1);
    if (item === undefined || item === mark) throw new PickleFault("its stack runs empty");
    return item as Pickled;
  }

  private recall(index: number): Pickled {
    const item = this.memo.get(index);
    if (item === undefined) throw new PickleFault(`it recalls ${index}, which was not remembered`);
    return item;
  }

  private take(count: number): DataView {
    if (this.at + count > this.bytes.length) throw new PickleFault("it ends in the middle");
    const view = new DataView(this.view.buffer, this.view.byteOffset + this.at, count);
    this.at += count;
    return view;
  }

  private readonly skip = (count: number): void => void this.take(count);
  private readonly u8 = (): number => this.take(1).getUint8(0);
  private readonly u32 = (): number => this.take(4).getUint32(0, true);

  private text(length: number): string {
    const { buffer, byteOffset } = this.take(length);
    return new TextDecoder().decode(new Uint8Array(buffer, byteOffset, length));
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) throw new PickleFault("it ends in the middle");
    const text = this.text(end - this.at);
    this.at = end + 1;
    return text;
  }

  /** Two's complement, little-endian; sizes of storages beyond 2^31 come so. */
  private long(length: number): number {
    const view = this.take(length);
    let value = 0;
    for (let i = length - 1; i >= 0; i--) value = value * 256 + view.getUint8(i);
    if (length > 0 && view.getUint8(length - 1) >= 128) value -= 256 ** length;
    if (!Number.isSafeInteger(value)) throw new PickleFault("it holds a number beyond 2^53");
    return value;
  }
}

const isName = (value: Pickled | undefined): value is PickledName =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === "name";

/** ("storage", type, key, location, elements) */
function storageOf(id: Pickled): PickledStorage {
  if (
    !Array.isArray(id) ||
    id[0] !== "storage" ||
    !isName(id[1]) ||
    typeof id[2] !== "string" ||
    typeof id[4] !== "number"
  )
    throw new PickleFault("it refers to something that is no storage");
  return { kind: "storage", type: id[1].name.replace("torch ", ""), key: id[2], elements: id[4] };
}

/** (storage, offset, shape, strides, ...) */
function tensorOf([storage, offset, shape, strides]: Pickled[]): PickledTensor {
  const counts = (value: Pickled | undefined): value is number[] =>
    Array.isArray(value) &&
    value.every((item) => typeof item === "number" && Number.isSafeInteger(item) && item >= 0);
  if (typeof storage !== "object" || storage === null || !("kind" in storage) || storage.kind !== "storage")
    throw new PickleFault("a tensor has no storage");
  if (typeof offset !== "number" || !counts(shape) || !counts(strides) || shape.length !== strides.length)
    throw new PickleFault("a tensor has no shape");
  return { kind: "tensor", storage, offset, shape, strides };
}
