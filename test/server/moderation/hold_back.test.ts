/** The streaming hold-back: no character leaves that nobody has judged, whatever the pieces are. */
import { describe, expect, test } from "bun:test";
import type { SequenceEvent } from "../../../src/server/generation.ts";
import { contextChars, heldBack, marginChars } from "../../../src/server/moderation/hold_back.ts";
import { uniform } from "../../../src/util/rng.ts";

const delta = (text: string, id: number): SequenceEvent => ({ type: "delta", text, tokens: [], ids: [id] });
const finish: SequenceEvent = { type: "finish", reason: "stop", stop: null, endToken: null, tokenCount: 0 };

/** Numbers of one random case. */
function drawer(seed: number) {
  let index = 0;
  return (below: number): number => Math.floor(uniform(seed, index++) * below);
}

/** Words, sentences, code-like runs without any end, in random pieces. */
function randomText(draw: (below: number) => number): string {
  const ends = [" ", " ", " ", " ", ". ", "! ", "\n", "", "。"];
  const words = Array.from({ length: 20 + draw(400) }, () => "abcdefgh".slice(draw(4), 4 + draw(5)));
  return words.map((word) => word + ends[draw(ends.length)]).join("");
}

function randomPieces(text: string, draw: (below: number) => number): string[] {
  const pieces: string[] = [];
  const largest = 1 + draw(60);
  for (let at = 0; at < text.length;) {
    const length = draw(largest + 1);
    pieces.push(text.slice(at, at + length));
    at += length;
  }
  return pieces;
}

async function* streamOf(
  pieces: readonly string[],
  state: { ended: boolean },
): AsyncGenerator<SequenceEvent> {
  try {
    yield { type: "prompt", cachedTokens: 0, logprobs: null };
    for (const [id, piece] of pieces.entries()) yield delta(piece, id);
    yield finish;
  } finally {
    state.ended = true;
  }
}

async function read(pieces: readonly string[], passes: (text: string) => boolean) {
  const state = { ended: false };
  const out: SequenceEvent[] = [];
  const judged: string[] = [];
  const judge = async (text: string) => {
    judged.push(text);
    return passes(text);
  };
  for await (const event of heldBack(streamOf(pieces, state), judge)) out.push(event);
  const text = out.map((event) => (event.type === "delta" ? event.text : "")).join("");
  const ids = out.flatMap((event) => (event.type === "delta" ? event.ids : []));
  return { out, text, ids, judged, ended: state.ended, last: out.at(-1)! };
}

describe("text that is held back", () => {
  test("leaves whole, in order and with all its tokens where nothing is flagged", async () => {
    for (let seed = 0; seed < 200; seed++) {
      const draw = drawer(seed);
      const pieces = randomPieces(randomText(draw), draw);
      const { text, ids, last } = await read(pieces, () => true);
      expect(text).toBe(pieces.join(""));
      expect(ids).toEqual(pieces.map((_, id) => id));
      expect(last).toEqual(finish);
    }
  });

  test("never leaves with any of a flagged phrase, wherever it stands and however it is cut", async () => {
    for (let seed = 0; seed < 600; seed++) {
      const draw = drawer(1000 + seed);
      const harmless = randomText(draw);
      // With ends of sentences inside, and up to the longest that is promised.
      const span = `#${"bad. word! ".repeat(10).slice(0, draw(marginChars - 1))}#`;
      const at = draw(harmless.length);
      const whole = harmless.slice(0, at) + span + harmless.slice(at);
      const { text, last, ended } = await read(randomPieces(whole, draw), (seen) => !seen.includes(span));
      expect(whole.startsWith(text)).toBe(true);
      expect(text.length).toBeLessThanOrEqual(at);
      expect(last).toMatchObject({ type: "finish", reason: "content_filter" });
      expect(ended).toBe(true);
    }
  });

  test("was in a judged text that passed, together with what came before it", async () => {
    for (let seed = 0; seed < 200; seed++) {
      const draw = drawer(5000 + seed);
      const whole = randomText(draw);
      const failing = draw(12);
      let count = 0;
      const passed: string[] = [];
      const { text } = await read(randomPieces(whole, draw), (seen) => {
        if (count++ === failing) return false;
        passed.push(seen);
        return true;
      });
      // Windows overlap: laid over each other they cover everything that left.
      let covered = 0;
      let from = 0;
      for (const window of passed) {
        from = whole.indexOf(window, Math.max(0, from));
        expect(from).toBeGreaterThanOrEqual(0);
        expect(from).toBeLessThanOrEqual(covered);
        covered = Math.max(covered, from + window.length);
      }
      expect(text.length).toBeLessThanOrEqual(covered);
    }
  });

  test("is judged with its past: a window reaches back", async () => {
    const pieces = Array.from({ length: 60 }, (_, i) => `Sentence number ${i} is here. `);
    const { judged } = await read(pieces, () => true);
    expect(judged.length).toBeGreaterThan(5);
    const past = pieces.join("").indexOf(judged.at(-1)!);
    expect(past).toBeGreaterThan(0);
    expect(judged.at(-1)!.length).toBeGreaterThan(contextChars);
  });

  test("leaves while the answer is still being written, a little behind", async () => {
    const pieces = Array.from({ length: 60 }, (_, i) => `Sentence number ${i} is here. `);
    let read = 0;
    const counted = async function* (): AsyncGenerator<SequenceEvent> {
      for (const [id, piece] of pieces.entries()) {
        read += piece.length;
        yield delta(piece, id);
      }
      yield finish;
    };
    let left = 0;
    let behind = 0;
    for await (const event of heldBack(counted(), async () => true)) {
      if (event.type !== "delta") continue;
      left += event.text.length;
      behind = Math.max(behind, read - left);
    }
    expect(behind).toBeLessThan(marginChars + 160);
  });
});
