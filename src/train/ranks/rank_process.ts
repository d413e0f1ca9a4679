/** One rank of a run, seen from inside its process: meet the others, train, say what happened, end.
 *  Always: a rank that fails makes the others fail at once; one that lost another says so by its exit code; a signal saves
 *  and ends; a rank ends when the supervisor that started it ends. */
import { availableParallelism } from "node:os";
import { CollectiveError, type Communicator } from "../../tensor/communicator.ts";
import { type Device, NativeError } from "../../tensor/device.ts";
import { deviceOfRank, openDevice } from "../../tensor/open_device.ts";
import { dieWithParent } from "../../tensor/parent_death.ts";
import { UsageError } from "../../util/errors.ts";
import type { TrainEvent } from "../events.ts";
import type { Recipe } from "../recipe.ts";
import { type RunOptions, runTraining, type StageProgress } from "../run.ts";
import { placeFromEnvironment, threadsOfRank } from "./environment.ts";
import { type Heartbeat, openHeartbeat, type ReportPhase } from "./heartbeat.ts";
import { joinRanks } from "./rendezvous.ts";

/** What a rank exits with when it lost the others: it is not the one that failed. */
export const PEER_LOST = 75;
/** And when its device is gone: no call of this process will succeed on it again. */
export const DEVICE_LOST = 70;

/** What a supervisor tells its ranks, as JSON. */
export type RankRun = Pick<
  RunOptions,
  "recipe" | "model" | "dataset" | "resume" | "measure" | "prompts" | "epochModels"
>;

/** What ranks tell their supervisor; events come from rank 0 only. */
export type FromRank =
  | { type: "event"; event: TrainEvent }
  | { type: "progress"; stage: string; done: number; total: number }
  /** What carries the collectives of ranks with GPUs. */
  | { type: "transport"; sentence: string }
  /** `final`: the same start would fail the same way, unless the device that could not be opened was there before. */
  | { type: "failed"; error: string; final: boolean; lost: boolean };

export interface RankOptions {
  recipe: Recipe;
  /** What to train on. Rank 0 is asked first, the others when it is done: data is prepared once. */
  prepare: () => Promise<RankRun>;
  /** GPUs of the ranks of this machine, in order; by default what the recipe says. */
  devices?: string[];
  /** Of rank 0; by default its supervisor is told. */
  onEvent?: (event: TrainEvent) => void;
  onProgress?: StageProgress;
}

/** Trains as the rank that the environment names, and ends the process. */
export async function runRankProcess(options: RankOptions): Promise<never> {
  if (process.send) endWithSupervisor();
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort(signal));
  const held: Held = { device: null, communicator: null };
  try {
    await train(options, stop.signal, held);
    return await exit(0);
  } catch (error) {
    held.communicator?.abort();
    return await endWith(error, error instanceof AbsentDevice || held.device?.isLost === true);
  }
}

/** What a failure is to be told to, or asked of. */
interface Held {
  device: Device | null;
  communicator: Communicator | null;
}

/** The rank's device cannot be opened. */
class AbsentDevice extends UsageError {}

/** A successor of the supervisor starts ranks on the same files: these must not go on for as long as a step takes, in which
 *  no event is heard. Checkpoints are safe at every moment. */
function endWithSupervisor(): void {
  process.on("disconnect", () => process.exit(PEER_LOST));
  dieWithParent();
}

async function train(
  { recipe, prepare, devices, onEvent, onProgress }: RankOptions,
  stop: AbortSignal,
  held: Held,
): Promise<void> {
  const place = placeFromEnvironment();
  const rank = place?.rank ?? 0;
  const { report, wait, ops } = keepAlive(openHeartbeat(process.env.KOALA_HEARTBEATS, rank));
  report(0, "start");
  const first = rank === 0 ? await prepare() : null;
  const threads = recipe.threads || threadsOfRank(availableParallelism(), place?.localWorld ?? 1);
  const localRank = place?.localRank ?? 0;
  const named = process.env.KOALA_RANK_DEVICE || devices?.[localRank];
  const device = open(named ?? deviceOfRank(recipe.device, localRank), threads);
  held.device = device;
  if (ops) device.recordOps(ops);
  const agreement = Bun.hash(JSON.stringify(recipe)).toString(16);
  const communicator = await joinRanks(device, place, {
    agreement,
    onWait: wait,
    onTransport: (sentence) => {
      if (process.send) tell({ type: "transport", sentence });
      else process.stderr.write(`koala: ${sentence}\n`);
    },
  });
  held.communicator = communicator;
  report(0, "load");
  await runTraining({
    ...(first ?? (await prepare())),
    recipe,
    device,
    communicator,
    report,
    stop,
    notice: process.env.KOALA_RANKS_NOTICE ?? "",
    onEvent: onEvent ?? ((event) => tell({ type: "event", event })),
    onProgress: (stage, done, total) => {
      report(0, "load");
      if (rank !== 0) return;
      if (onProgress) onProgress(stage, done, total);
      else tell({ type: "progress", stage, done, total });
    },
  });
  report(Number.MAX_SAFE_INTEGER, "end");
}

function open(name: string, threads: number): Device {
  try {
    return openDevice(name, { threads });
  } catch (error) {
    throw error instanceof UsageError ? new AbsentDevice(error.message) : error;
  }
}

/** Beats again each second while the process turns its event loop: files are being read or written. */
function keepAlive(heartbeat: Heartbeat): Heartbeat {
  let last: Parameters<ReportPhase> = [0, "start"];
  setInterval(() => heartbeat.report(...last), 1000).unref();
  return { ...heartbeat, report: (...beat) => heartbeat.report(...(last = beat)) };
}

/** `lost`: by this rank's own device, and not by what else happened. */
async function endWith(error: unknown, lost: boolean): Promise<never> {
  if (error instanceof CollectiveError && !lost) {
    // A supervisor tells of the rank that failed first, which this one is not.
    if (!process.send) process.stderr.write(`koala: ${error.message}\n`);
    process.exit(PEER_LOST);
  }
  const text = sentenceOf(error);
  if (process.send) tell({ type: "failed", error: text, final: error instanceof UsageError, lost });
  else process.stderr.write(`koala: ${text}\n`);
  return exit(lost ? DEVICE_LOST : 1);
}

/** One sentence for what the user did or the system refused, a trace for what we did. */
function sentenceOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const named = [UsageError, NativeError, CollectiveError].some((kind) => error instanceof kind);
  return named ? error.message : (error.stack ?? error.message);
}

/** An exit right after `send` can lose the message. */
async function exit(code: number): Promise<never> {
  if (process.send) await Bun.sleep(50);
  process.exit(code);
}

function tell(message: FromRank): void {
  process.send?.(message);
}
