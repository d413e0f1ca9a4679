/** Which tokens may come next at a position: one walk of the vocabulary's tree, remembered.
 *  Inside a string nearly every token is allowed and the walk is long; it is done once for all strings alike, and only
 *  the tokens that close the string and go on are tried again for each place where a string stands. */
import { limits } from "./errors.ts";
import { type Machine, dead } from "./machine.ts";
import { type TokenTrie, buildTrie } from "./token_trie.ts";

/** Tokens of up to this many bytes are short: nearly all. Their masks change only for counts this near to a bound, so
 *  that each further character of a string with maxLength costs a walk of the few long tokens only. */
const shortBytes = 16;

/** Longer tokens are never allowed: they cost a table of their length and no model needs them. */
const longestToken = 1024;

export interface VocabularyTries {
  /** Tokens by their ids; the long ones count as empty. */
  short: TokenTrie;
  /** Tokens by their place in `longIds`, so that their many masks are small. */
  long: TokenTrie;
  longIds: number[];
}

export function buildTries(tokens: readonly Uint8Array[]): VocabularyTries {
  const none = new Uint8Array();
  const longIds = tokens.flatMap(({ length }, id) =>
    length > shortBytes && length <= longestToken ? [id] : [],
  );
  return {
    short: buildTrie(tokens.map((bytes) => (bytes.length > shortBytes ? none : bytes))),
    long: buildTrie(longIds.map((id) => tokens[id]!)),
    longIds,
  };
}

interface InsideMask {
  mask: Uint32Array;
  /** Nodes of the tree at which the shared rule is over. */
  exits: number[];
}

export class TokenMasks {
  private readonly short: TrieMasks;
  private readonly long: TrieMasks;
  private epoch = -1;

  constructor(
    private readonly machine: Machine,
    private readonly tries: VocabularyTries,
    private readonly endIds: readonly number[],
  ) {
    this.short = new TrieMasks(machine, tries.short, 0);
    this.long = new TrieMasks(machine, tries.long, 1);
  }

  get bytes(): number {
    return this.short.bytes + this.long.bytes;
  }

  /** ceil(V / 32) words, the caller's own. */
  at(position: number): Uint32Array {
    if (this.epoch !== this.machine.epoch || this.bytes > limits.maskBytes) {
      this.short.forget();
      this.long.forget();
      this.epoch = this.machine.epoch;
    }
    const mask = this.short.at(position).slice();
    for (const [word, bits] of this.long.at(position).entries()) {
      for (let rest = bits; rest !== 0; rest &= rest - 1) {
        const id = this.tries.longIds[word * 32 + 31 - Math.clz32(rest & -rest)]!;
        mask[id >> 5]! |= 1 << (id & 31);
      }
    }
    if (this.machine.complete(position)) setEndIds(mask, this.endIds);
    return mask;
  }
}

/** Masks over one tree. */
class TrieMasks {
  /** Bytes of what is remembered. */
  bytes = 0;
  private readonly masks = new Map<number, Uint32Array>();
  private readonly insides = new Map<number, InsideMask>();
  private readonly path: Int32Array;

  constructor(
    private readonly machine: Machine,
    private readonly trie: TokenTrie,
    private readonly horizon: number,
  ) {
    this.path = new Int32Array(trie.horizon + 1);
  }

  at(position: number): Uint32Array {
    const key = this.machine.canonical(position, this.horizon);
    const known = this.masks.get(key);
    if (known !== undefined) return known;
    const mask = this.compute(key);
    this.masks.set(key, mask);
    this.bytes += mask.byteLength + 100;
    return mask;
  }

  forget(): void {
    this.masks.clear();
    this.insides.clear();
    this.bytes = 0;
  }

  private compute(position: number): Uint32Array {
    const { shared, rest } = this.machine.sharedRules(position);
    const mask = emptyMask(this.trie);
    if (rest !== dead) this.walk({ node: 0, position: rest, mask, exits: null });
    for (const { inside, after } of shared) {
      const { mask: within, exits } = this.insideMask(inside);
      for (let i = 0; i < mask.length; i++) mask[i]! |= within[i]!;
      for (const node of exits) this.walk({ node, position: after, mask, exits: null });
    }
    return mask;
  }

  private insideMask(position: number): InsideMask {
    const known = this.insides.get(position);
    if (known !== undefined) return known;
    const exits: number[] = this.machine.complete(position) ? [0] : [];
    const mask = emptyMask(this.trie);
    this.walk({ node: 0, position, mask, exits });
    this.insides.set(position, { mask, exits });
    this.bytes += mask.byteLength + 8 * exits.length;
    return { mask, exits };
  }

  /** Sets the tokens below `node` whose remaining bytes the machine takes from `position`. */
  private walk(from: { node: number; position: number; mask: Uint32Array; exits: number[] | null }): void {
    const { machine, path } = this;
    const { byte, depth, end, token, sameBytes } = this.trie;
    const { classOf, width } = machine;
    const { mask, exits } = from;
    let { table } = machine;
    const last = end[from.node]!;
    path[depth[from.node]!] = from.position;
    let i = from.node + 1;
    while (i < last) {
      const at = depth[i]!;
      const before = path[at - 1]!;
      let position = table[before * width + classOf[byte[i]!]!]!;
      if (position < 0) {
        position = machine.step(before, byte[i]!);
        table = machine.table;
      }
      if (position === dead) {
        i = end[i]!;
        continue;
      }
      path[at] = position;
      for (let id = token[i]!; id >= 0; id = sameBytes[id]!) mask[id >> 5]! |= 1 << (id & 31);
      if (exits !== null && machine.complete(position)) exits.push(i);
      i++;
    }
  }
}

function emptyMask({ tokenCount }: TokenTrie): Uint32Array {
  return new Uint32Array((tokenCount + 31) >>> 5);
}

export function setEndIds(mask: Uint32Array, endIds: readonly number[]): void {
  for (const id of endIds) mask[id >> 5]! |= 1 << (id & 31);
}
