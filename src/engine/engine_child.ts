/** The child process behind the engine handle: spawned, watched, started again after a death, ended for certain.
 *
 *  Always: at most one child lives; after `stop` none does, and none is started.
 *  A first load that fails is final: the same files fail the same way. Later deaths are retried with growing pauses until
 *  `quickDeathsMax` children in a row died within `quickDeathMs` of being ready, or before. */
import type { FromEngine, ToEngine } from "./messages.ts";

export interface ChildOptions {
  /** Program and arguments; it ends in `runEngineProcess`. */
  command: string[];
  env?: Record<string, string | undefined>;
  onMessage: (message: FromEngine) => void;
  /** The child died and another will be started; one sentence. */
  onDown: (error: string) => void;
  /** No other will be started; one sentence. */
  onFailed: (error: string) => void;
  quickDeathsMax?: number;
  quickDeathMs?: number;
  /** First pause before a restart; doubled after each quick death, up to 64 times. */
  restartDelayMs?: number;
  /** Time between asking the child to end and killing it. */
  stopGraceMs?: number;
}

export class EngineChild {
  readonly #options: ChildOptions;
  #process: Bun.Subprocess | null = null;
  /** Of the living child; null while it loads. */
  #readyAt: number | null = null;
  #wasEverReady = false;
  #quickDeaths = 0;
  /** What the child said before its end. */
  #lastWords: string | null = null;
  #restartTimer: ReturnType<typeof setTimeout> | null = null;
  #stopped = false;

  constructor(options: ChildOptions) {
    this.#options = options;
    this.#start();
  }

  /** Lost where no child listens: whoever waits for an answer was told by `onDown`. */
  send(message: ToEngine): void {
    try {
      this.#process?.send(message);
    } catch {
      // The channel closed before the exit was reported; onDown comes next.
    }
  }

  /** Returns when the child is gone, by itself or killed. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    const child = this.#process;
    if (child === null) return;
    this.send({ type: "stop" });
    const kill = setTimeout(() => child.kill("SIGKILL"), this.#options.stopGraceMs ?? 2000);
    await child.exited;
    clearTimeout(kill);
  }

  #start(): void {
    const { command, env } = this.#options;
    this.#readyAt = null;
    this.#lastWords = null;
    try {
      const child: Bun.Subprocess = Bun.spawn(command, {
        env: env ?? process.env,
        // What a library prints must not land in an answer that the parent prints on stdout.
        stdio: ["ignore", process.stderr.fd, "inherit"],
        serialization: "json",
        ipc: (message: FromEngine) => this.#receive(child, message),
        onExit: (_, exitCode) => this.#ended(child, exitCode),
      });
      this.#process = child;
    } catch (error) {
      queueMicrotask(() =>
        this.#fail(`The engine process could not be started: ${(error as Error).message}.`),
      );
    }
  }

  #receive(child: Bun.Subprocess, message: FromEngine): void {
    if (child !== this.#process) return;
    if (message.type === "ready") {
      this.#readyAt = performance.now();
      this.#wasEverReady = true;
    }
    if (message.type === "failed") {
      this.#lastWords = message.error;
      child.kill("SIGKILL");
      return;
    }
    if (!this.#stopped) this.#options.onMessage(message);
  }

  #ended(child: Bun.Subprocess, exitCode: number | null): void {
    if (child !== this.#process) return;
    this.#process = null;
    if (this.#stopped) return;
    const error = this.#lastWords ?? this.#describe(exitCode, child.signalCode);
    if (!this.#wasEverReady) return this.#fail(error);
    const served = this.#readyAt === null ? 0 : performance.now() - this.#readyAt;
    this.#quickDeaths = served < (this.#options.quickDeathMs ?? 30_000) ? this.#quickDeaths + 1 : 0;
    const most = this.#options.quickDeathsMax ?? 5;
    if (this.#quickDeaths >= most)
      return this.#fail(
        `The engine died ${most} times in a row soon after its start and is given up. ${error}`,
      );
    const delay = (this.#options.restartDelayMs ?? 250) * 2 ** Math.min(this.#quickDeaths, 6);
    this.#restartTimer = setTimeout(() => this.#start(), delay);
    this.#options.onDown(error);
  }

  #describe(exitCode: number | null, signal: NodeJS.Signals | number | null): string {
    const when = this.#readyAt === null ? " while it loaded the model" : "";
    // The kernel ends whoever asks for too much memory this way, and says so only in its own log.
    const why = when !== "" && signal === "SIGKILL" ? "; the usual reason is too little memory" : "";
    if (signal === null) return `The engine process ended by itself with exit code ${exitCode}${when}.`;
    return `The engine process was ended by ${typeof signal === "number" ? `signal ${signal}` : signal}${when}${why}.`;
  }

  #fail(error: string): void {
    if (!this.#stopped) this.#options.onFailed(error);
  }
}
