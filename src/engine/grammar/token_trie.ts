/** Tokens as a tree of bytes, so that one walk over it tries all tokens at once.
 *  Nodes are in depth-first order: the children of node i lie between i and end[i]. Node 0 is the empty text. */

export interface TokenTrie {
  tokenCount: number;
  /** Bytes of the longest token. */
  horizon: number;
  byte: Uint8Array;
  depth: Uint16Array;
  end: Int32Array;
  /** The first token that ends at a node, or -1; `sameBytes[token]` is the next one with equal bytes, or -1. */
  token: Int32Array;
  sameBytes: Int32Array;
}

/** Empty tokens are left out. */
export function buildTrie(tokens: readonly Uint8Array[]): TokenTrie {
  // Sorting strings of one character a byte is several times faster than sorting byte arrays.
  const texts = tokens.map((bytes) => Buffer.from(bytes).toString("latin1"));
  const order = texts.flatMap((text, id) => (text === "" ? [] : [id]));
  order.sort((x, y) => (texts[x]! < texts[y]! ? -1 : texts[x]! > texts[y]! ? 1 : x - y));
  const nodeCount = countNodes(texts, order);
  const trie: TokenTrie = {
    tokenCount: tokens.length,
    horizon: texts.reduce((longest, text) => Math.max(longest, text.length), 0),
    byte: new Uint8Array(nodeCount),
    depth: new Uint16Array(nodeCount),
    end: new Int32Array(nodeCount).fill(nodeCount),
    token: new Int32Array(nodeCount).fill(-1),
    sameBytes: new Int32Array(tokens.length).fill(-1),
  };
  fill(trie, texts, order);
  return trie;
}

function countNodes(texts: readonly string[], order: readonly number[]): number {
  let count = 1;
  let previous = "";
  for (const id of order) {
    count += texts[id]!.length - commonPrefix(previous, texts[id]!);
    previous = texts[id]!;
  }
  return count;
}

function fill(trie: TokenTrie, texts: readonly string[], order: readonly number[]): void {
  const path = [0];
  let previous = "";
  let count = 1;
  for (const id of order) {
    const text = texts[id]!;
    const shared = commonPrefix(previous, text);
    for (let depth = path.length - 1; depth > shared; depth--) trie.end[path.pop()!] = count;
    for (let i = shared; i < text.length; i++) {
      trie.byte[count] = text.charCodeAt(i);
      trie.depth[count] = i + 1;
      path.push(count++);
    }
    const node = path.at(-1)!;
    trie.sameBytes[id] = trie.token[node]!;
    trie.token[node] = id;
    previous = text;
  }
}

function commonPrefix(x: string, y: string): number {
  const length = Math.min(x.length, y.length);
  let i = 0;
  while (i < length && x.charCodeAt(i) === y.charCodeAt(i)) i++;
  return i;
}
