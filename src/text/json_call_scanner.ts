/** Reads one `{"name": …, "arguments": …}` object as its text arrives, and hands out the arguments' own text as it comes.
 *  Knows just enough JSON to see where values end; never throws: a text that cannot be such an object is "broken". */
export interface ScanResult {
  /** Characters of the pushed text that belong to the object. */
  consumed: number;
  /** Set once: when the name is known. */
  name: string | null;
  argumentsDelta: string;
  status: "more" | "done" | "broken";
}

type State = "start" | "key" | "colon" | "value" | "in-value" | "after" | "done";

export class JsonCallScanner {
  /** The name was handed out. */
  started = false;
  private state: State = "start";
  private text = "";
  private key = "";
  private inString = false;
  private escaped = false;
  private stack: string[] = [];
  private pendingArguments = "";
  private sawArguments = false;
  private name: string | null = null;

  push(chunk: string): ScanResult {
    const wasStarted = this.started;
    let consumed = 0;
    while (consumed < chunk.length && this.state !== "done") {
      if (!this.step(chunk[consumed]!)) return this.result(consumed, "broken", wasStarted);
      consumed++;
    }
    if (this.state !== "done") return this.result(consumed, "more", wasStarted);
    if (this.name === null) return this.result(consumed, "broken", wasStarted);
    // A call without arguments has none, which clients read as an empty object.
    if (!this.sawArguments) this.pendingArguments = "{}";
    return this.result(consumed, "done", wasStarted);
  }

  private result(consumed: number, status: ScanResult["status"], wasStarted: boolean): ScanResult {
    if (this.name !== null && status !== "broken") this.started = true;
    const fresh = this.started && !wasStarted;
    const argumentsDelta = this.started ? this.pendingArguments : "";
    if (this.started) this.pendingArguments = "";
    return { consumed, name: fresh ? this.name : null, argumentsDelta, status };
  }

  /** False: this cannot be a call. */
  private step(character: string): boolean {
    if (this.state === "in-value") return this.inValue(character);
    if (this.inString) return this.inKey(character);
    if (/\s/.test(character)) return true;
    switch (this.state) {
      case "start":
        this.state = "key";
        return character === "{";
      case "key":
        if (character === "}" && this.name !== null) this.state = "done";
        this.inString = character === '"';
        this.text = '"';
        return this.inString || this.state === "done";
      case "colon":
        this.state = "value";
        return character === ":";
      case "value":
        return this.beginValue(character);
      case "after":
        this.state = character === "," ? "key" : "done";
        return character === "," || character === "}";
      default:
        return false;
    }
  }

  private inKey(character: string): boolean {
    this.text += character;
    if (!this.closesString(character)) return this.text.length < 256;
    this.state = "colon";
    const key = parseString(this.text);
    this.key = key ?? "";
    return key !== null;
  }

  private beginValue(character: string): boolean {
    this.state = "in-value";
    this.text = "";
    this.stack = [];
    if (this.isArguments()) {
      if (this.sawArguments) return false;
      this.sawArguments = true;
    }
    return /["{[\-0-9tfn]/.test(character) && this.inValue(character);
  }

  private inValue(character: string): boolean {
    if (this.inString) {
      this.add(character);
      if (this.closesString(character) && this.stack.length === 0) return this.endValue();
      return true;
    }
    if (character === '"') this.inString = true;
    else if (character === "{" || character === "[") this.stack.push(character === "{" ? "}" : "]");
    else if (this.stack.length > 0 && (character === "}" || character === "]")) {
      if (this.stack.pop() !== character) return false;
      this.add(character);
      return this.stack.length > 0 || this.endValue();
    } else if (this.stack.length === 0 && /[\s,}\]]/.test(character)) {
      // A number, true, false or null ends with what follows it.
      return this.endValue() && (/\s/.test(character) || this.step(character));
    }
    this.add(character);
    return this.stack.length < 200;
  }

  private add(character: string): void {
    this.text += character;
    // Arguments that are a JSON text inside a string come out whole, unquoted, at their end.
    if (this.isArguments() && !this.text.startsWith('"')) this.pendingArguments += character;
  }

  private endValue(): boolean {
    this.state = "after";
    if (this.key === "name") {
      this.name = parseString(this.text);
      return this.name !== null;
    }
    if (this.isArguments() && this.text.startsWith('"')) {
      const inner = parseString(this.text);
      if (inner === null) return false;
      this.pendingArguments += inner;
    }
    return true;
  }

  private isArguments(): boolean {
    return this.key === "arguments" || this.key === "parameters";
  }

  private closesString(character: string): boolean {
    if (this.escaped) this.escaped = false;
    else if (character === "\\") this.escaped = true;
    else if (character === '"') this.inString = false;
    return !this.inString;
  }
}

function parseString(text: string): string | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "string" ? value : null;
  } catch {
    return null;
  }
}
