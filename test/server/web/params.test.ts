/** The parameter form: what it sends, what it refuses. */
import { describe, expect, test } from "bun:test";
import { emptyParams, readParams } from "../../../src/server/web/params.ts";

describe("parameters", () => {
  test("an empty form sends nothing, zero is sent", () => {
    expect(readParams(emptyParams)).toEqual({ body: {}, problems: {} });
    expect(readParams({ ...emptyParams, temperature: "0", top_k: "0", seed: "0" }).body).toEqual({
      temperature: 0,
      top_k: 0,
      seed: 0,
    });
  });

  test("a decimal comma is a decimal point", () => {
    expect(readParams({ ...emptyParams, temperature: " 0,7 ", top_p: ".95" }).body).toEqual({
      temperature: 0.7,
      top_p: 0.95,
    });
  });

  test("stop strings are lines, with newline and tab spelled out", () => {
    expect(readParams({ ...emptyParams, stop: "\\n\\n\nUSER:\n\na\\\\n\\tb" }).body).toEqual({
      stop: ["\n\n", "USER:", "a\\n\tb"],
    });
    expect(readParams({ ...emptyParams, stop: "a\nb\nc\nd\ne" }).problems.stop).toContain("5 stop strings");
  });

  test.each([
    ["temperature", "2.01"],
    ["temperature", "-0.1"],
    ["temperature", "warm"],
    ["top_p", "1.1"],
    ["top_k", "1.5"],
    ["max_tokens", "0"],
    ["seed", "4294967296"],
    ["seed", "NaN"],
    ["seed", "1e999"],
  ] as const)("%s = %s is refused with a sentence and not sent", (name, value) => {
    const { body, problems } = readParams({ ...emptyParams, [name]: value });
    expect(body).toEqual({});
    expect(problems[name]).toMatch(
      new RegExp(`is ${value.replace(".", "\\.")}, but must be a .*number from`),
    );
  });
});
