/** What the browser remembers: bounded, and never in the way. */
import { describe, expect, test } from "bun:test";
import type { Chat } from "../../../src/server/web/state.ts";
import * as storage from "../../../src/server/web/storage.ts";

class Store implements storage.TextStore {
  readonly entries = new Map<string, string>();
  constructor(private readonly limit = Number.POSITIVE_INFINITY) {}
  get length() {
    return this.entries.size;
  }
  key = (index: number) => [...this.entries.keys()][index] ?? null;
  getItem = (key: string) => this.entries.get(key) ?? null;
  removeItem = (key: string) => void this.entries.delete(key);
  setItem = (key: string, value: string) => {
    const others = [...this.entries].filter(([name]) => name !== key);
    const size = others.reduce((sum, [, text]) => sum + text.length, value.length);
    if (size > this.limit) throw new DOMException("full", "QuotaExceededError");
    this.entries.set(key, value);
  };
}

const chat = (id: string, updatedAt: number, content = "hi"): Chat => ({
  id,
  updatedAt,
  system: "",
  messages: [{ role: "user", content }],
});
const ids = (store: Store) => storage.loadChats(store).map(({ id }) => id);

describe("storage", () => {
  test("what is saved is loaded, newest first", () => {
    const store = new Store();
    for (const [id, at] of [
      ["a", 1],
      ["c", 3],
      ["b", 2],
    ] as const)
      expect(storage.saveChat(store, chat(id, at))).toBe(true);
    expect(storage.loadChats(store)).toEqual([chat("c", 3), chat("b", 2), chat("a", 1)]);
  });

  test("the oldest chats go when there are too many, or they are too large", () => {
    const store = new Store();
    for (let index = 0; index <= storage.chatLimit; index++)
      storage.saveChat(store, chat(`c${index}`, index));
    expect(ids(store)).toHaveLength(storage.chatLimit);
    expect(ids(store)).not.toContain("c0");
    storage.saveChat(store, chat("large", 1000, "x".repeat(storage.chatBytesMax - 300)));
    const total = [...store.entries.values()].reduce((sum, text) => sum + text.length, 0);
    expect(total).toBeLessThanOrEqual(storage.chatBytesMax);
    expect(ids(store)[0]).toBe("large");
  });

  test("a full storage gives up old chats for the new one; one that cannot fit is not kept", () => {
    const store = new Store(1000);
    for (let index = 0; index < 9; index++)
      expect(storage.saveChat(store, chat(`c${index}`, index, "y".repeat(200)))).toBe(true);
    expect(ids(store)[0]).toBe("c8");
    expect(storage.saveChat(store, chat("huge", 99, "z".repeat(2000)))).toBe(false);
  });

  test("entries that are not chats are skipped", () => {
    const store = new Store();
    storage.saveChat(store, chat("good", 1));
    const broken = [
      "{",
      "null",
      "[]",
      '{"id":"x"}',
      '{"id":"x","updatedAt":1,"system":"","messages":[{"role":"king","content":"x"}]}',
    ];
    broken.forEach((text, index) => store.setItem(`koala.chat.bad${index}`, text));
    store.setItem("somebody.else", "7");
    expect(ids(store)).toEqual(["good"]);
  });

  test("an answer that was running when the page closed is a stopped one", () => {
    const store = new Store();
    const answer = {
      role: "assistant",
      content: "so f",
      status: "streaming",
      finishReason: null,
      usage: null,
      timing: null,
      problem: null,
    } as const;
    storage.saveChat(store, { ...chat("a", 1), messages: [{ role: "user", content: "q" }, answer] });
    expect(storage.loadChats(store)[0]?.messages[1]).toMatchObject({ status: "stopped", content: "so f" });
  });

  test("settings survive, and damaged ones fall back field by field", () => {
    const store = new Store();
    const settings = { ...storage.loadSettings(store), theme: "dark" as const, model: "m", draft: "Once" };
    expect(storage.saveSettings(store, settings)).toBe(true);
    expect(storage.loadSettings(store)).toEqual(settings);
    store.setItem("koala.settings", '{"theme":"pink","model":7,"params":{"seed":"3","stop":9}}');
    expect(storage.loadSettings(store)).toMatchObject({
      theme: "system",
      model: "",
      params: { seed: "3", stop: "" },
    });
    expect(storage.saveSettings(new Store(1), settings)).toBe(false);
  });
});
