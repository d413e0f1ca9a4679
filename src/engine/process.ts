/** The engine's own process, seen from inside: load the model, tell the parent, serve until told to stop or left alone.
 *
 *  Always: it ends when its parent ends, however the parent ended. Signals from a terminal or a service manager reach the
 *  parent too, and the parent decides whether running requests may finish: here they are ignored. */
import type { AdapterTable } from "./adapter_table.ts";
import { EngineCore } from "./core.ts";
import { compileGrammar, type Vocabulary } from "./grammar.ts";
import { EngineLoop } from "./loop.ts";
import type { EngineInfo, FromEngine, ToEngine } from "./messages.ts";
import type { ModelRunner } from "./runner.ts";
import { CollectiveError } from "../tensor/communicator.ts";
import { UsageError } from "../util/errors.ts";

export interface LoadedModel {
  runner: ModelRunner;
  /** The bytes of each token, for constrained decoding, and the ids that end an answer. */
  vocabulary: Vocabulary;
  info: EngineInfo;
  /** null or absent: it takes none. */
  adapters?: AdapterTable | null;
  /** Resolves with one sentence when a process that holds a share of the model has ended; null or absent: there is none. */
  lost?: Promise<string> | null;
}

export type ReportProgress = (stage: string, done: number, total: number) => void;

/** Serves the parent that spawned this process with an IPC channel. Resolves when the model is loaded and served, or when
 *  loading failed and the parent was told why. */
export async function runEngineProcess(
  load: (progress: ReportProgress) => Promise<LoadedModel>,
): Promise<void> {
  if (process.send === undefined)
    throw new UsageError(
      "The engine process was started by hand; it is started by koala serve, which talks to it.",
    );
  process.on("disconnect", () => process.exit(0));
  process.on("SIGINT", ignore);
  process.on("SIGTERM", ignore);
  let receive: (message: ToEngine) => void = (message) => {
    if (message.type === "stop") process.exit(0);
  };
  process.on("message", (message: ToEngine) => receive(message));
  try {
    const { runner, vocabulary, info, adapters, lost } = await load((stage, done, total) =>
      send({ type: "progress", stage, done, total }),
    );
    const core = new EngineCore({
      clock: () => performance.now(),
      runner,
      compileGrammar: (spec) => compileGrammar(spec, vocabulary),
      endIds: vocabulary.endIds,
      adapters: adapters ?? null,
    });
    // The end of another process is the better reason, and may be told a moment after what it broke.
    void lost?.then(fail);
    const onFatal = (error: Error) => {
      if (!(error instanceof CollectiveError))
        return fail(`The engine failed step after step: ${error.message}`);
      setTimeout(() => fail(error.message), LOSS_MS);
    };
    const loop = new EngineLoop({ core, send, onStop: () => process.exit(0), onFatal });
    receive = (message) => loop.receive(message);
    send({ type: "ready", info });
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error));
  }
}

function send(message: FromEngine): void {
  process.send!(message);
}

/** Tells the parent, who ends this process; without a parent it ends itself. */
function fail(error: string): void {
  send({ type: "failed", error });
  process.exitCode = 1;
  setTimeout(() => process.exit(1), FAREWELL_MS);
}

function ignore(): void {}

/** Time for the news of another process's end to come. */
const LOSS_MS = 500;

/** Time for the last message to leave: an exit right after `send` can lose it. */
const FAREWELL_MS = 1000;
