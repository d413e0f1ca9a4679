/** The event-stream parser against the WHATWG examples, cut at every byte; browser.test.ts compares it with the browser's own. */
import { describe, expect, test } from "bun:test";
import { readEvents } from "../../../src/server/web/sse.ts";

function streamOf(pieces: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
}

const read = (pieces: Uint8Array[]) => Array.fromAsync(readEvents(streamOf(pieces)));
const bytes = (text: string) => new TextEncoder().encode(text);

const samples: [name: string, text: string, events: string[]][] = [
  ["two lines make one event (WHATWG example 1)", "data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]],
  [
    "comments, ids and an unfinished event (WHATWG example 2)",
    ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
    ["first event", "second event"],
  ],
  ["empty data (WHATWG example 3)", "data\n\ndata\ndata\n\ndata:", ["", "\n"]],
  ["one space belongs to the colon (WHATWG example 4)", "data:test\n\ndata: test\n\n", ["test", "test"]],
  ["CRLF, CR and a BOM", "\uFEFFdata: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]],
  ["pings and other fields", ": ping\n\nevent: x\nretry: 3\ndata: {}\n\n:\n\n", ["{}"]],
  ["text in several scripts", "data: コアラ 🐨 è\n\ndata: [DONE]\n\n", ["コアラ 🐨 è", "[DONE]"]],
];

describe("server-sent events", () => {
  test.each(samples)("%s", async (_, text, events) => {
    expect(await read([bytes(text)])).toEqual(events);
  });

  test.each(samples)("%s, cut at every byte and fed byte by byte", async (_, text, events) => {
    const all = bytes(text);
    for (let cut = 0; cut <= all.length; cut++)
      expect(await read([all.slice(0, cut), all.slice(cut)])).toEqual(events);
    expect(await read(Array.from(all, (byte) => Uint8Array.of(byte)))).toEqual(events);
  });

  test("a reader that stops early cancels the stream", async () => {
    let cancelled = false;
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(bytes("data: more\n\n")),
      cancel: () => void (cancelled = true),
    });
    for await (const data of readEvents(endless)) if (data === "more") break;
    expect(cancelled).toBe(true);
  });
});
