/** Lines typed at a terminal or piped in, in order: what arrives while nobody asks waits, and the last needs no newline. */
import { createInterface, type Interface } from "node:readline";

export class Lines {
  /** Someone sits there: prompts are shown, and Ctrl-C is a key. */
  readonly interactive = process.stdin.isTTY === true;
  readonly #terminal: Interface;
  readonly #waiting: string[] = [];
  #asked: ((line: string | null) => void) | null = null;
  #closed = false;

  constructor(prompt: string) {
    const { interactive } = this;
    this.#terminal = createInterface({
      input: process.stdin,
      terminal: interactive,
      prompt,
      ...(interactive ? { output: process.stdout } : {}),
    });
    this.#terminal.on("line", (line) => {
      this.#waiting.push(line);
      this.#answer();
    });
    this.#terminal.on("close", () => {
      this.#closed = true;
      this.#answer();
    });
  }

  /** null at the end of input, and after a Ctrl-C that nobody caught. */
  next(): Promise<string | null> {
    if (this.interactive && this.#waiting.length === 0 && !this.#closed) this.#terminal.prompt();
    return new Promise((resolve) => {
      this.#asked = resolve;
      this.#answer();
    });
  }

  /** Runs `work`, which Ctrl-C aborts instead of ending the program. */
  async interruptible(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const stop = new AbortController();
    const interrupt = (): void => stop.abort();
    this.#terminal.on("SIGINT", interrupt);
    try {
      await work(stop.signal);
    } finally {
      this.#terminal.off("SIGINT", interrupt);
    }
  }

  close(): void {
    this.#terminal.close();
  }

  #answer(): void {
    if (this.#asked === null || (this.#waiting.length === 0 && !this.#closed)) return;
    const asked = this.#asked;
    this.#asked = null;
    asked(this.#waiting.shift() ?? null);
  }
}

/** A model's text on stdout. To a terminal, control characters would be commands: they show as U+FFFD. */
export function printAnswer(piece: string): void {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  const commands = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;
  process.stdout.write(process.stdout.isTTY ? piece.replace(commands, "\ufffd") : piece);
}

/** `koala generate | head`: when the reader has what it wanted, the rest of the answer is for nobody. */
export function endWithReader(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
}
