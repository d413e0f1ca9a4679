/** Server-sent events read from a byte stream: yields the `data` of each event.
 *  Follows the WHATWG event-stream grammar: CR, LF or CRLF, a leading BOM, comments (pings), several `data` lines,
 *  other fields ignored; an event cut off by the end of the stream is dropped, as browsers do. */

export async function* readEvents(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    await reader.cancel().catch(() => {}); // the consumer stopped early, or the stream failed: nothing is left to report
  }
}

/** The state between two pieces of text: an unfinished line and the data lines of an unfinished event. */
export class EventParser {
  private rest = "";
  private data: string[] = [];
  private skipLineFeed = false;

  push(text: string): string[] {
    const events: string[] = [];
    // A CR at the end of a piece has ended its line already; the LF that may follow in the next piece belongs to it.
    if (this.skipLineFeed && text.length > 0) {
      if (text.startsWith("\n")) text = text.slice(1);
      this.skipLineFeed = false;
    }
    if (text.endsWith("\r")) this.skipLineFeed = true;
    const lines = (this.rest + text).split(/\r\n|\r|\n/);
    this.rest = lines.pop() ?? "";
    for (const line of lines) this.line(line, events);
    return events;
  }

  private line(line: string, events: string[]): void {
    if (line === "") {
      if (this.data.length > 0) events.push(this.data.join("\n"));
      this.data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== "data") return; // a comment (empty name) or a field that chat streams do not use
    const value = colon < 0 ? "" : line.slice(colon + 1);
    this.data.push(value.startsWith(" ") ? value.slice(1) : value);
  }
}
