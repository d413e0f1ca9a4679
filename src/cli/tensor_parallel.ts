/** The ranks of a model that several processes hold together: this process is rank 0 and starts the others, `koala engine-rank`.
 *  Always: ranks live and end together: one that ends ends all, and the sentence names the one that ended first. */
import { availableParallelism } from "node:os";
import { loadRunner, type LoadProgress, type RunnerOptions } from "../engine/load_runner.ts";
import type { LlamaRunner } from "../engine/llama_runner.ts";
import type { EngineInfo } from "../engine/messages.ts";
import { follow, type RankGroup } from "../engine/tensor_parallel.ts";
import { readConfig } from "../model/config.ts";
import { shardConfig } from "../model/shard.ts";
import { ShardedLlama } from "../model/sharded_llama.ts";
import { CollectiveError } from "../tensor/communicator.ts";
import { type CudaDriver, probeCudaDriver } from "../tensor/cuda_driver.ts";
import { NativeError } from "../tensor/device.ts";
import { deviceOfRank, openDevice } from "../tensor/open_device.ts";
import { dieWithParent } from "../tensor/parent_death.ts";
import { joinSharedMemory } from "../tensor/shared_memory.ts";
import { threadsOfRank } from "../train/ranks/environment.ts";
import { hostRendezvous, joinRanks } from "../train/ranks/rendezvous.ts";
import { UsageError } from "../util/errors.ts";
import { selfCommand } from "../util/self_command.ts";

export interface OpenedRunner {
  runner: LlamaRunner;
  info: EngineInfo;
  /** Resolves with one sentence when another rank has ended; null where there is none. */
  lost: Promise<string> | null;
}

/** Loads a model in this process, or its first share here and the others in ranks of their own. `runner.close()` ends them. */
export async function openRunner(options: RunnerOptions, onProgress?: LoadProgress): Promise<OpenedRunner> {
  if (options.tensorParallel === 1) return { ...(await loadRunner(options, onProgress)), lost: null };
  shardConfig(await readConfig(options.directory), { rank: 0, world: options.tensorParallel });
  if (options.device === "cuda") checkDevices(options.tensorParallel, probeCudaDriver());
  const others = new OtherRanks(options);
  try {
    const joined = joinGroup({ options, rank: 0, port: others.port, steps: others.steps });
    const group = await Promise.race([joined, others.failed]);
    const loaded = () => Promise.race([others.loaded, others.failed]);
    return { ...(await loadRunner(options, onProgress, { ...group, loaded })), lost: others.lost };
  } catch (error) {
    throw await others.end(error);
  } finally {
    others.met();
  }
}

/** Throws UsageError where there are fewer GPUs than ranks. What else is wrong with the driver, opening a device tells. */
export function checkDevices(ranks: number, driver: CudaDriver): void {
  if (driver.state !== "working" || driver.devices.length >= ranks) return;
  const { length } = driver.devices;
  throw new UsageError(
    `--tensor-parallel ${ranks} needs as many GPUs, and this machine has ${length}; koala doctor lists ${length === 1 ? "it" : "them"}.`,
  );
}

/** What a rank is told, as JSON. */
export interface RankStart {
  options: RunnerOptions;
  rank: number;
  /** Where ranks meet. */
  port: number;
  /** Name of the shared memory through which rank 0 tells what to run. */
  steps: string;
}

/** What a rank tells rank 0 beside its collectives. */
type FromRank = { type: "loaded" } | { type: "failed"; error: string };

/** How long ranks wait for each other, in a step or to come. */
const timeoutSeconds = 60;

async function joinGroup({ options, rank, port, steps }: RankStart): Promise<Omit<RankGroup, "loaded">> {
  const world = options.tensorParallel;
  const threads = threadsOfRank(options.threads || availableParallelism(), world);
  const device = openDevice(deviceOfRank(options.device, rank), { threads });
  const place = { rank, world, localRank: rank, localWorld: world, address: "127.0.0.1", port };
  const onTransport = (sentence: string) => void process.stderr.write(`koala: ${sentence}\n`);
  const sums = await joinRanks(device, { ...place, hosted: true, run: "" }, { timeoutSeconds, onTransport });
  return {
    rank,
    world,
    device,
    sums,
    steps: joinSharedMemory(device, {
      name: steps,
      rank,
      world,
      timeoutSeconds: rank === 0 ? timeoutSeconds : forever,
      joinSeconds: timeoutSeconds,
      stagingBytes: 1 << 20,
    }),
  };
}

/** Seconds: the communicator takes it for no limit. A rank that ended is noticed all the same. */
const forever = 1e9;

/** Ranks 1 to N - 1, seen from rank 0. */
class OtherRanks {
  readonly steps = `/koala-${crypto.randomUUID()}`;
  readonly lost: Promise<string>;
  /** Rejects when one has ended. */
  readonly failed: Promise<never>;
  /** Resolves when all have loaded their shares. */
  readonly loaded: Promise<void>;
  private readonly rendezvous;
  private readonly ranks: Bun.Subprocess[];

  constructor(options: RunnerOptions) {
    const world = options.tensorParallel;
    this.rendezvous = hostRendezvous(world, { timeoutSeconds });
    const { promise, resolve } = Promise.withResolvers<string>();
    this.lost = promise;
    this.failed = promise.then((sentence) => {
      throw new UsageError(sentence);
    });
    // Whoever waits sees it.
    this.failed.catch(() => {});
    const shares = Array.from({ length: world - 1 }, () => Promise.withResolvers<void>());
    this.loaded = Promise.all(shares.map((share) => share.promise)).then(() => {});
    this.ranks = shares.map((share, i) =>
      this.start({ options, rank: i + 1 }, { onLoaded: share.resolve, onEnd: resolve }),
    );
  }

  get port(): number {
    return this.rendezvous.port;
  }

  /** All have met, or will not. */
  met(): void {
    this.rendezvous.close();
  }

  /** Ends them; returns what went wrong first. */
  async end(error: unknown): Promise<unknown> {
    // A rank that ended has said why, or will be reported in a moment.
    const first = error instanceof CollectiveError ? await lossOr(error.message, this.lost) : null;
    for (const rank of this.ranks) rank.kill("SIGKILL");
    await Promise.all(this.ranks.map((rank) => rank.exited));
    return first === null ? error : new UsageError(first);
  }

  private start(
    start: Pick<RankStart, "options" | "rank">,
    { onLoaded, onEnd }: { onLoaded: () => void; onEnd: (sentence: string) => void },
  ): Bun.Subprocess {
    const { rank, options } = start;
    let lastWords: string | null = null;
    const json = JSON.stringify({ ...start, port: this.port, steps: this.steps } satisfies RankStart);
    const child: Bun.Subprocess = Bun.spawn(selfCommand("engine-rank", json), {
      // What a library prints must not land in an answer that is printed on stdout.
      stdio: ["ignore", process.stderr.fd, "inherit"],
      serialization: "json",
      ipc: (message: FromRank) => {
        if (message.type === "loaded") onLoaded();
        else lastWords = message.error;
      },
      onExit: (_, exitCode) => {
        const { signalCode } = child;
        const how = signalCode === null ? `ended with exit code ${exitCode}` : `was ended by ${signalCode}`;
        const why = signalCode === "SIGKILL" ? "; the usual reason is too little memory" : "";
        onEnd(lastWords ?? `Rank ${rank} of the engine's ${options.tensorParallel} ${how}${why}.`);
      },
    });
    // It lives as long as something else here does.
    child.unref();
    return child;
  }
}

/** Time for the news of a rank's end to come. */
const newsMs = 1000;

/** What ended first, where one rank's end made a collective fail with `message`. */
function lossOr(message: string, lost: Promise<string>): Promise<string> {
  return Promise.race([lost, Bun.sleep(newsMs).then(() => message)]);
}

/** One of the other ranks, seen from inside; ends the process. */
export async function runEngineRank(start: RankStart): Promise<never> {
  // In the middle of a native op no event would be heard.
  dieWithParent();
  process.on("disconnect", () => process.exit(0));
  // They reach rank 0's parent too, who decides whether running requests may finish.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
  try {
    const group = await joinGroup(start);
    const loaded = () => tell({ type: "loaded" });
    const { runner } = await loadRunner(start.options, () => {}, { ...group, loaded });
    if (!(runner.model instanceof ShardedLlama)) throw new Error("a rank without a share");
    await follow(runner, runner.model, group.steps);
    process.exit(0);
  } catch (error) {
    // Who lost another has nothing to say.
    if (error instanceof CollectiveError) process.exit(0);
    await tell({ type: "failed", error: sentenceOf(start.rank, error) });
    process.exit(1);
  }
}

/** Returns when the message has left: what comes next may be an exit, or a collective that turns no event loop. */
async function tell(message: FromRank): Promise<void> {
  process.send?.(message);
  await Bun.sleep(50);
}

/** A user's mistake is every rank's; what else fails is this one's. */
function sentenceOf(rank: number, error: unknown): string {
  if (error instanceof UsageError) return error.message;
  if (error instanceof NativeError) return `Rank ${rank}: ${error.message}`;
  return `Rank ${rank}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
