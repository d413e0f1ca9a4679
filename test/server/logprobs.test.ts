/** Shapes of scored tokens, where tokens share a name or cannot come at all. */

import { expect, test } from "bun:test";
import {
  chatTokenLogprobs,
  completionLogprobs,
  promptLogprobs,
  tokenName,
} from "../../src/server/logprobs.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { byteTokenizer } from "../support/fake_engine.ts";

/** Ids 0 and 1 are both "A", 2 is "B", as vocabularies with byte pieces have it. */
const twins = {
  isSpecial: () => false,
  tokenBytes: (id: number) => Uint8Array.of(id < 2 ? 65 : 66),
} as unknown as Tokenizer;

test("of two tokens with one name the likelier stays, so the other is not taken for greedy", () => {
  const logprob = { id: 1, logprob: -3, rank: 2, top: [[0, -0.1] as [number, number]] };
  const { token_logprobs: own, top_logprobs: top } = completionLogprobs(
    [{ id: 1, logprob, offset: 0 }],
    twins,
    5,
  );
  expect([own, top]).toEqual([[-3], [{ A: -0.1 }]]);
});

test("the chosen token is always among its alternatives", () => {
  const logprob = { id: 2, logprob: -3, rank: 9, top: [[0, -0.1] as [number, number]] };
  expect(completionLogprobs([{ id: 2, logprob, offset: 0 }], twins, 0).top_logprobs).toEqual([
    { A: -0.1, B: -3 },
  ]);
});

test("an impossible token is a number in JSON, never null", () => {
  const logprob = { id: 2, logprob: -Infinity, rank: 9, top: [[0, 0] as [number, number]] };
  expect(completionLogprobs([{ id: 2, logprob, offset: 0 }], twins, 0).token_logprobs).toEqual([-9999]);
  expect(chatTokenLogprobs([{ id: 2, logprob, offset: 0 }], twins)[0]!.logprob).toBe(-9999);
  expect(promptLogprobs([null, logprob], twins)[1]!["2"]).toEqual({
    logprob: -9999,
    rank: 9,
    decoded_token: "B",
  });
});

test("a token that is no whole character is named by its bytes, a special one as it is written", () => {
  const tokenizer = byteTokenizer();
  expect([0xe2, 65, 257].map((id) => tokenName(tokenizer, id))).toEqual(["bytes:\\xe2", "A", "</s>"]);
});
