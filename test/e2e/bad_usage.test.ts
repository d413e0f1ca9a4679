import { describe, expect, test } from "bun:test";
import { expectOneSentence, koala, shared } from "../support/refusal.ts";

/** Flags that are refused before any model is opened. */
const usage: [args: string[], says: RegExp][] = [
  [["serve", "--model", "./nowhere"], /nowhere/],
  [["serve", "--model", "package.json"], /package\.json is a file/],
  [["serve", "--modle", "x"], /--modle.*--model/s],
  [["serve", "--model", "x", "--threads", "-1"], /--threads/],
  [["serve", "--model", "x", "--threads", "99999"], /--threads.*256/],
  [["serve", "--model", "x", "--threads", "two"], /--threads/],
  [["serve", "--model", "x", "--dtype", "foo"], /--dtype.*bfloat16/],
  [["serve", "--model", "x", "--served-model-name", ""], /--served-model-name/],
  [["serve", "--model", "x", "--port", "70000"], /--port.*65535/],
  [["serve", "--model", "x", "--max-model-len", "0"], /--max-model-len/],
  [["serve", "--model", "x", "--cache-memory", "lots"], /--cache-memory/],
  [
    ["serve", "--model", "x", "--kv-cache-dtype", "int8"],
    /--kv-cache-dtype.* auto, float32, bfloat16 or fp8/,
  ],
  [["serve", "--model"], /--model/],
  [["serve", "x"], /serve|argument/],
  [["sreve"], /sreve.*serve/s],
  [["chat"], /model/],
  [["generate", "--model", "http://127.0.0.1:9", "--prompt", "x"], /127\.0\.0\.1:9/],
  [["convert", "--model", "x"], /--out/],
  [["doctor", "--jsno"], /--json/],
  [["bench"], /--model/],
];

describe("a command line that makes no sense is refused in one sentence", () => {
  const outcome = shared(usage, ([args]) => koala(args));
  for (const one of usage)
    test(["koala", ...one[0]].join(" "), async () => expectOneSentence(await outcome(one), one[1]), 60_000);
});

test("doctor has something to say without any model", async () => {
  const { code, out, err } = await koala(["doctor", "--json", "--no-measure"]);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  const findings = JSON.parse(out) as { name: string; ok: boolean; text: string }[];
  expect(findings.map(({ name }) => name)).toEqual(
    expect.arrayContaining(["processor", "kernels", "memory", "gpu driver"]),
  );
});
