import { expect, test } from "bun:test";
import { StopStrings } from "../../src/text/stop_strings.ts";
import { random } from "./corpus.ts";

/** The definition: the text is tested after each character; the longest stop that ends there ends it. */
function expected(text: string, stops: string[], from: number): { text: string; stop: string | null } {
  for (let end = 1; end <= text.length; end++) {
    if (end <= from) continue;
    const found = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { text: text.slice(0, end - found.length), stop: found };
  }
  return { text, stop: null };
}

function run(pieces: string[], stops: string[], options = {}): { text: string; stop: string | null } {
  const matcher = new StopStrings(stops, options);
  let text = "";
  for (const piece of pieces) {
    const result = matcher.push(piece);
    text += result.text;
    if (result.stop !== null) return { text, stop: result.stop };
  }
  return { text: text + matcher.end(), stop: null };
}

test("3000 random texts in random pieces stop where the definition says", () => {
  const next = random(9);
  const draw = (length: number): string =>
    Array.from({ length }, () => "ab\n"[Math.floor(next() * 3)]!).join("");
  for (let round = 0; round < 3000; round++) {
    const stops = Array.from({ length: 1 + Math.floor(next() * 3) }, () => draw(1 + Math.floor(next() * 5)));
    const pieces = Array.from({ length: Math.floor(next() * 12) }, () => draw(Math.floor(next() * 4)));
    const minTokens = Math.floor(next() * 3);
    const want = expected(pieces.join(""), stops, pieces.slice(0, minTokens).join("").length);
    expect({ stops, pieces, minTokens, ...run(pieces, stops, { minTokens }) }).toEqual({
      stops,
      pieces,
      minTokens,
      ...want,
    });
  }
});

test("only what may begin a stop string is held back", () => {
  const matcher = new StopStrings(["</end>", "STOP"]);
  expect(matcher.push("Hello <")).toEqual({ text: "Hello ", stop: null });
  expect(matcher.push("b>")).toEqual({ text: "<b>", stop: null });
  expect(matcher.push("go </e")).toEqual({ text: "go ", stop: null });
  expect(matcher.push("nd> more")).toEqual({ text: "", stop: "</end>" });
  expect(matcher.push("never")).toEqual({ text: "", stop: "</end>" });
  expect(matcher.end()).toBe("");
});

test("the stop string is included where asked, and surrogate pairs may be split", () => {
  expect(run(["a🐨", "b"], ["🐨"], { includeStop: true })).toEqual({ text: "a🐨", stop: "🐨" });
  expect(run(["x", "y"], [])).toEqual({ text: "xy", stop: null });
  expect(run(["x", ""], [""])).toEqual({ text: "x", stop: null });
});
