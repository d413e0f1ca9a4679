/** The chat's reducer, and the runner that feeds it. */
import { describe, expect, test } from "bun:test";
import { runAnswer } from "../../../src/server/web/answer.ts";
import { type AnswerEvent, readChunk } from "../../../src/server/web/client.ts";
import { cutProblem, ProblemError } from "../../../src/server/web/problem.ts";
import {
  type Action,
  type Answer,
  type AnswerChange,
  isBusy,
  newChat,
  reduce,
  type State,
  titleOf,
  tokensPerSecond,
  wireMessages,
} from "../../../src/server/web/state.ts";

const empty: State = { chats: [], open: newChat("a", "", 0) };
const ask = (text: string, at: number, now = 1): Action => ({ type: "ask", text, at, now });
const change = (part: AnswerChange, chatId = "a"): Action => ({ ...part, chatId, now: 9 });
const finish = change({ type: "finish", reason: "stop", usage: null, timing: null });
const play = (state: State, ...actions: Action[]) => actions.reduce(reduce, state);
const say = (text: string, answer: string, at: number) => [
  ask(text, at),
  change({ type: "text", text: answer }),
  finish,
];
const contents = (state: State) => state.open.messages.map((message) => message.content);
const twoTurns = play(empty, ...say("one", "1", 0), ...say("two", "2", 2));

describe("the chat's state", () => {
  test("a question gets an answer that grows", () => {
    const running = play(
      empty,
      ask("hi", 0),
      change({ type: "text", text: "he" }),
      change({ type: "text", text: "llo" }),
    );
    expect(contents(running)).toEqual(["hi", "hello"]);
    expect(isBusy(running.open)).toBe(true);
    expect(isBusy(play(running, finish).open)).toBe(false);
  });

  test("editing a question drops what came after it", () => {
    expect(contents(play(twoTurns, ask("eins", 0)))).toEqual(["eins", ""]);
    expect(wireMessages(play(twoTurns, ask("zwei", 2)).open).map(({ content }) => content)).toEqual([
      "one",
      "1",
      "zwei",
    ]);
  });

  test("answering again keeps the question and sends what came before", () => {
    const state = play(twoTurns, { type: "regenerate", at: 3, now: 2 });
    expect(contents(state)).toEqual(["one", "1", "two", ""]);
    expect(wireMessages(state.open)).toEqual([
      { role: "user", content: "one" },
      { role: "assistant", content: "1" },
      { role: "user", content: "two" },
    ]);
  });

  test("text after the end changes nothing", () => {
    expect(play(twoTurns, change({ type: "text", text: "late" }))).toBe(twoTurns);
  });

  test("leaving a chat lets its answer end there, not in the new one", () => {
    const left = play(empty, ask("hi", 0), { type: "new", id: "b", now: 5 }, ask("other", 0, 6));
    const ended = play(left, change({ type: "stop", timing: null }, "a"));
    expect(ended.open.id).toBe("b");
    expect(isBusy(ended.open)).toBe(true);
    expect(ended.chats.find(({ id }) => id === "a")?.messages[1]).toMatchObject({ status: "stopped" });
  });

  test("the system prompt goes first, and a new chat inherits it", () => {
    const state = play(empty, { type: "system", text: "Be brief." }, ask("hi", 0));
    expect(wireMessages(state.open)[0]).toEqual({ role: "system", content: "Be brief." });
    expect(play(state, { type: "new", id: "b", now: 3 }).open.system).toBe("Be brief.");
  });

  test("a turn that failed without a word is not sent again, one that broke off is", () => {
    const failed = play(empty, ask("lost", 0), change({ type: "fail", problem: cutProblem }), ask("next", 2));
    expect(wireMessages(failed.open)).toEqual([{ role: "user", content: "next" }]);
    const partial = play(
      empty,
      ask("a", 0),
      change({ type: "text", text: "so f" }),
      change({ type: "fail", problem: cutProblem }),
      ask("b", 2),
    );
    expect(wireMessages(partial.open).map(({ content }) => content)).toEqual(["a", "so f", "b"]);
  });

  test("the list is newest first, deleting the open chat opens an empty one", () => {
    const state = play(twoTurns, { type: "new", id: "b", now: 20 }, ask("newer", 0, 21));
    expect(state.chats.map(({ id }) => id)).toEqual(["b", "a"]);
    const deleted = play(state, { type: "delete", id: "b", newId: "c", now: 30 });
    expect(deleted.chats.map(({ id }) => id)).toEqual(["a"]);
    expect(deleted.open).toMatchObject({ id: "c", messages: [] });
  });

  test("another tab's chats replace all but the open one", () => {
    const other = { ...newChat("z", "", 50), messages: twoTurns.open.messages };
    const synced = play(twoTurns, { type: "synced", chats: [other, { ...other, id: "a" }] });
    expect(synced.chats.map(({ id }) => id)).toEqual(["z", "a"]);
    expect(synced.open).toBe(twoTurns.open);
  });

  test("titles are one short line", () => {
    expect(titleOf(twoTurns.open)).toBe("one");
    expect(titleOf(play(empty, ask(`a\n${"b".repeat(99)}`, 0)).open)).toBe(`a ${"b".repeat(57)}…`);
  });

  test("the speed counts the tokens after the first one", () => {
    const answer = twoTurns.open.messages[1] as Answer;
    const usage = { promptTokens: 3, completionTokens: 11 };
    expect(tokensPerSecond({ ...answer, usage, timing: { firstTextMs: 100, textMs: 500 } })).toBe(20);
    expect(
      tokensPerSecond({
        ...answer,
        usage: { ...usage, completionTokens: 1 },
        timing: { firstTextMs: 1, textMs: 0 },
      }),
    ).toBeNull();
  });
});

async function* events(...list: (AnswerEvent | Error)[]): AsyncGenerator<AnswerEvent> {
  for (const event of list) {
    if (event instanceof Error) throw event;
    yield event;
  }
}

async function run(source: AsyncIterable<AnswerEvent>, signal = new AbortController().signal) {
  const changes: AnswerChange[] = [];
  let clock = 0;
  await runAnswer(source, (part) => changes.push(part), { signal, now: () => (clock += 10) });
  return changes;
}

describe("an answer's run", () => {
  const usage = { promptTokens: 1, completionTokens: 3 };
  const text = (piece: string): AnswerEvent => ({ type: "text", text: piece });

  test("text is gathered, figures come at the end", async () => {
    const changes = await run(
      events(text("a"), text("b"), text("c"), { type: "finish", reason: "length" }, { type: "usage", usage }),
    );
    expect(changes).toEqual([
      { type: "text", text: "a" },
      { type: "text", text: "bc" },
      { type: "finish", reason: "length", usage, timing: { firstTextMs: 10, textMs: 20 } },
    ]);
  });

  test("a failure keeps the text before it and ends the run once", async () => {
    const changes = await run(events(text("a"), text("b"), new ProblemError(cutProblem)));
    expect(changes.map(({ type }) => type)).toEqual(["text", "text", "fail"]);
  });

  test("an abort is a stop, not a failure", async () => {
    const controller = new AbortController();
    controller.abort();
    expect(await run(events(text("a")), controller.signal)).toEqual([
      { type: "text", text: "a" },
      { type: "stop", timing: { firstTextMs: 10, textMs: 0 } },
    ]);
  });
});

describe("a chunk of the stream", () => {
  test("chat and completion chunks, usage with and without choices", () => {
    expect(readChunk({ choices: [{ index: 0, delta: { role: "assistant", content: "" } }] })).toEqual([]);
    expect(
      readChunk({ choices: [{ index: 0, delta: { content: "x" }, finish_reason: null }], usage: null }),
    ).toEqual([{ type: "text", text: "x" }]);
    expect(readChunk({ choices: [{ index: 0, text: "y", finish_reason: "stop" }] })).toEqual([
      { type: "text", text: "y" },
      { type: "finish", reason: "stop" },
    ]);
    expect(readChunk({ choices: [], usage: { prompt_tokens: 2, completion_tokens: 5 } })).toEqual([
      { type: "usage", usage: { promptTokens: 2, completionTokens: 5 } },
    ]);
    expect(() => readChunk({ error: { message: "engine died" } })).toThrow(
      "The answer broke off. engine died.",
    );
    expect(readChunk(null)).toEqual([]);
  });
});
