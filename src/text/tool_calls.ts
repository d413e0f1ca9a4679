/** Turns a model's streamed text into content and tool calls, as OpenAI streams them.
 *  Always: nothing throws and nothing is lost; text that turns out to be no call comes out as content. */
import { JsonCallScanner } from "./json_call_scanner.ts";
import type { ToolFormat } from "./tool_formats.ts";
import { syntaxes, type Syntax } from "./tool_syntax.ts";

export { toolTokens, type Tool, type ToolFormat } from "./tool_formats.ts";

export interface ToolCallDelta {
  index: number;
  /** With the first delta of a call only. */
  id?: string;
  name?: string;
  argumentsDelta: string;
}

export interface ToolCallOutput {
  content?: string;
  calls: ToolCallDelta[];
}

export interface ToolCallParserOptions {
  /** Names that may be called: JSON that names another is content. */
  tools: readonly string[];
  /** For tests: 24 characters of an id. */
  randomId?: () => string;
}

type State = "content" | "call" | "between" | "done";

export class ToolCallParser {
  private state: State = "content";
  private held = "";
  private scanner: JsonCallScanner | null = null;
  /** Text since the marker, given back as content when no call comes of it. */
  private sinceMarker = "";
  private count = 0;
  private atStart = true;
  private readonly names: Set<string>;
  private readonly syntax: Syntax;

  constructor(
    format: ToolFormat,
    private readonly options: ToolCallParserOptions,
  ) {
    this.syntax = syntaxes[format];
    this.names = new Set(options.tools);
  }

  push(text: string): ToolCallOutput {
    const output: Output = { content: "", calls: [] };
    this.held += text;
    while (this.held !== "" && this.step(output)) continue;
    return finish(output);
  }

  /** What was held back. */
  end(): ToolCallOutput {
    const output: Output = { content: "", calls: [] };
    if (this.scanner && !this.scanner.started) output.content += this.sinceMarker + this.held;
    else if (this.state === "content") output.content += this.held;
    else if (this.state === "between") output.content += this.lastContent();
    this.held = "";
    this.scanner = null;
    this.state = "done";
    return finish(output);
  }

  private lastContent(): string {
    const next = this.syntax.next(this.held);
    // An answer that is cut behind a call may end with a piece of its closing tag, which is no content.
    const rest = next === "wait" ? "" : this.held.slice(next.skip);
    return rest.trim() === "" ? "" : rest;
  }

  /** True when it made progress and may go on. */
  private step(output: Output): boolean {
    switch (this.state) {
      case "content":
        return this.content(output);
      case "call":
        return this.call(output);
      case "between":
        return this.between(output);
      case "done":
        output.content += this.held;
        this.held = "";
        return false;
    }
  }

  private content(output: Output): boolean {
    const found = this.syntax.open(this.held, this.atStart);
    if (found === null) {
      this.atStart &&= this.held.trim() === "";
      output.content += this.take(this.held.length);
      return false;
    }
    if (found.start > 0) {
      this.atStart &&= this.held.slice(0, found.start).trim() === "";
      output.content += this.take(found.start);
    }
    if (found.end === null) return false;
    this.sinceMarker = this.take(found.end - found.start);
    this.open();
    return true;
  }

  private open(): void {
    this.scanner = new JsonCallScanner();
    this.state = "call";
  }

  private call(output: Output): boolean {
    const scanner = this.scanner!;
    const result = scanner.push(this.held);
    this.sinceMarker += this.held.slice(0, result.consumed);
    this.held = this.held.slice(result.consumed);
    if (result.name !== null) {
      if (!this.names.has(result.name)) return this.giveUp(output);
      output.calls.push({
        index: this.count,
        id: `call_${(this.options.randomId ?? randomId)()}`,
        name: result.name,
        argumentsDelta: result.argumentsDelta,
      });
    } else if (result.argumentsDelta !== "" && scanner.started) {
      output.calls.push({ index: this.count, argumentsDelta: result.argumentsDelta });
    }
    if (result.status === "more") return false;
    if (result.status === "broken" && !scanner.started) return this.giveUp(output);
    this.scanner = null;
    this.count++;
    this.sinceMarker = "";
    this.state = "between";
    return this.held !== "";
  }

  private giveUp(output: Output): boolean {
    this.scanner = null;
    output.content += this.sinceMarker;
    this.sinceMarker = "";
    this.atStart = false;
    this.state = "content";
    return this.held !== "";
  }

  /** After a call: its closing tag, then another call or more text. */
  private between(output: Output): boolean {
    const next = this.syntax.next(this.held);
    if (next === "wait") return false;
    this.held = this.held.slice(next.skip);
    this.atStart = false;
    this.sinceMarker = "";
    if (next.after === "call") this.open();
    else this.state = "content";
    return this.held !== "" || output.content !== "";
  }

  private take(length: number): string {
    const text = this.held.slice(0, length);
    this.held = this.held.slice(length);
    return text;
  }
}

interface Output {
  content: string;
  calls: ToolCallDelta[];
}

const finish = ({ content, calls }: Output): ToolCallOutput =>
  content === "" ? { calls } : { content, calls };

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

function randomId(): string {
  // 62 letters in 256 values: the few too many are drawn again, so that all are equally likely.
  let id = "";
  while (id.length < 24) {
    for (const byte of crypto.getRandomValues(new Uint8Array(32)))
      if (byte < 248 && id.length < 24) id += alphabet[byte % 62];
  }
  return id;
}
