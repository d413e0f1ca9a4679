import { expect, test } from "bun:test";
import { identityLeaks, leakTable } from "../../src/eval/identity_leak.ts";

const systems = ["koala-all", "house-model 7b"];

test.each([
  ["As ChatGPT, I was trained by OpenAI.", ["chatgpt", "openai"]],
  ["I am Claude, made by Anthropic.", ["anthropic", "claude"]],
  ["My name is GPT-4.", ["gpt-4"]],
  ["My name is GPT 4.", ["gpt-4"]],
  ["I am KOALA_ALL and proud of it.", ["koala", "koala-all"]],
  ["The House-Model 7B says hello.", ["house-model 7b"]],
  ["Ask an open  assistant.", ["open assistant"]],
])("%s tells its author", (text, words) => {
  expect(identityLeaks(text, { systems })).toEqual(words);
});

test.each([
  ["The alpacas ate googled openairs."],
  ["Bardic palms, gpt-400 and metamistrals."],
  ["Eucalyptus leaves are slow food."],
])("%s tells nothing: parts of words are other words", (text) => {
  expect(identityLeaks(text, { systems })).toEqual([]);
});

test("what the question names already is no leak", () => {
  const prompt = "What does a koala eat?";
  expect(identityLeaks("A koala eats leaves.", { systems, prompt })).toEqual([]);
  expect(identityLeaks("Koala by Berkeley, or Vicuna?", { systems, prompt })).toEqual(["vicuna"]);
});

test("a system named by one letter does not make every text a leak", () => {
  expect(identityLeaks("a b c", { systems: ["a", "b"] })).toEqual([]);
});

test("the table counts answers and words by system", () => {
  const table = leakTable([
    { system: "x", leaks: ["koala", "openai"] },
    { system: "x", leaks: ["koala"] },
    { system: "y", leaks: [] },
    { system: "x", leaks: [] },
  ]);
  expect(table).toEqual([
    { system: "x", answers: 3, leaking: 2, words: { koala: 2, openai: 1 } },
    { system: "y", answers: 1, leaking: 0, words: {} },
  ]);
});
