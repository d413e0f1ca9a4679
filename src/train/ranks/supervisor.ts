/** Starts the ranks of a run, watches them, and starts all again from the last checkpoint when one dies or hangs; without
 *  those whose device is gone or that fail again and again, where fewer are allowed (places.ts).
 *  Always: ranks live and end together; after `superviseRanks` none is left that the system can end. The report names the
 *  rank that failed first, not those that lost it. Without progress between failures the run is given up. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UsageError } from "../../util/errors.ts";
import { placeVariables } from "./environment.ts";
import { type Beat, createHeartbeats, readHeartbeats } from "./heartbeat.ts";
import { type Place, Places, type ProbePlace } from "./places.ts";
import { DEVICE_LOST, type FromRank, PEER_LOST } from "./rank_process.ts";
import { hostRendezvous } from "./rendezvous.ts";

export interface SupervisorOptions {
  world: number;
  /** Program and arguments of a rank; the variables of its environment say which it is. */
  command: string[];
  env?: Record<string, string | undefined>;
  /** The device of each rank; by default what the recipe says. */
  devices?: readonly string[];
  /** As few ranks may go on after a failure; by default all must. */
  ranksMin?: number;
  /** Micro-batches of a step, which fewer ranks share evenly where they can. */
  microBatches?: number;
  /** Whether a rank's device works, asked before a restart; by default they all do. */
  probe?: ProbePlace;
  /** A rank that has not said anything for so long hangs. */
  silenceMs?: number;
  /** Restarts in a row without a new checkpoint. */
  restartsMax?: number;
  /** Pause before the first of them; doubled for each further one. */
  restartDelayMs?: number;
  /** Time that ranks get to save and end when the run is stopped. */
  stopGraceMs?: number;
  /** Step of the newest checkpoint; what restarts count from. */
  checkpointStep(): number | null;
  /** A failure that is followed by a restart; one sentence. */
  onRestart(report: string): void;
  /** What ranks say about the run: events and progress. */
  onMessage?(message: Exclude<FromRank, { type: "failed" }>): void;
  /** Ends the run: ranks save and exit. */
  signal?: AbortSignal;
}

/** Returns when every rank has ended well, "stopped" where `signal` asked for it. Throws UsageError with the report when
 *  the run is given up. */
export async function superviseRanks(options: SupervisorOptions): Promise<"finished" | "stopped"> {
  const { restartsMax = 3, restartDelayMs = 1000, checkpointStep, onRestart, signal } = options;
  const places = new Places(placesOf(options));
  let restarts = 0;
  let everStarted = false;
  let from = checkpointStep();
  let notice = "";
  for (;;) {
    const failure = await attempt(options, places, notice);
    if (failure === null) return signal?.aborted ? "stopped" : "finished";
    const now = checkpointStep();
    if (now !== from) {
      restarts = 0;
      places.progress();
    }
    from = now;
    const where = now === null ? "from the beginning" : `from step ${now}`;
    if (signal?.aborted)
      throw new UsageError(`${failure.report} The run was being stopped; resume it ${where}.`);
    // A device that was there before is not the user's mistake.
    if (failure.final && !(failure.lost && everStarted)) throw new UsageError(failure.report);
    everStarted ||= failure.started;
    if (!everStarted) throw new UsageError(`${failure.report} The other ranks were stopped.`);
    if (restarts === restartsMax)
      throw new UsageError(
        `${failure.report} The run is given up after ${restarts} restarts without a new checkpoint; resume it ${where} when the cause is gone.`,
      );
    const delay = restartDelayMs * 2 ** restarts++;
    await places.learn(failure.place, options.probe ?? (async () => null));
    const absence = places.absence();
    const who = absence === "" || places.chosen() === null ? "all" : "these";
    // Where too few were left, the report says so already.
    const said = absence === "" || absence === failure.report ? "" : ` ${absence}`;
    onRestart(
      `${failure.report}${said} The other ranks were stopped, and ${who} start again ${where} in ${delay / 1000} s (restart ${restarts} of ${restartsMax}).`,
    );
    notice = absence;
    await pause(delay, signal);
    if (signal?.aborted) return "stopped";
  }
}

const placesOf = ({ world, devices, ranksMin = world, microBatches = 0 }: SupervisorOptions) => ({
  places: Array.from({ length: world }, (_, index): Place => ({ index, device: devices?.[index] ?? "" })),
  ranksMin,
  microBatches,
});

/** Starts the ranks that are left; too few of them are a failure like any other. */
async function attempt(options: SupervisorOptions, places: Places, notice: string): Promise<Failure | null> {
  const chosen = places.chosen();
  if (chosen !== null) return new Attempt(options, chosen, notice).run();
  return { report: places.absence(), started: true, final: false, lost: false, place: null };
}

interface Failure {
  report: string;
  /** False where the ranks never came to their first step: they would fail the same way again. */
  started: boolean;
  /** A user's mistake, in one sentence. */
  final: boolean;
  /** The rank's device is gone. */
  lost: boolean;
  /** Of the rank that failed. */
  place: Place | null;
}

/** One start of all ranks. */
class Attempt {
  private readonly folder = mkdtempSync(join(tmpdir(), "koala-ranks-"));
  private readonly page = join(this.folder, "heartbeats");
  private readonly beats: () => Beat[];
  private readonly ranks: Bun.Subprocess[];
  /** In the order in which they ended. */
  private readonly ended: number[] = [];
  /** What ranks said about their failure. */
  private readonly lastWords = new Map<number, Extract<FromRank, { type: "failed" }>>();
  private readonly failed = Promise.withResolvers<void>();

  constructor(
    private readonly options: SupervisorOptions,
    private readonly places: Place[],
    private readonly notice: string,
  ) {
    createHeartbeats(this.page, places.length);
    this.beats = readHeartbeats(this.page);
    this.ranks = [];
  }

  /** null: all ended well. */
  async run(): Promise<Failure | null> {
    const { signal, silenceMs = 300_000 } = this.options;
    const world = this.places.length;
    const rendezvous = hostRendezvous(world);
    const stop = () => void this.stop();
    try {
      for (let rank = 0; rank < world; rank++) this.ranks.push(this.start(rank, rendezvous.port));
      signal?.addEventListener("abort", stop);
      if (signal?.aborted) stop();
      const watch = new Silence(this.beats, silenceMs);
      const timer = setInterval(() => watch.look() && this.failed.resolve(), Math.min(1000, silenceMs / 4));
      const finished = Promise.all(this.ranks.map((rank) => rank.exited));
      await Promise.race([finished, this.failed.promise]);
      clearInterval(timer);
      // Ranks that lost the first one may be reported before it is.
      if (this.ranks.some(failedRank)) await Bun.sleep(100);
      return this.endedWell() ? null : this.describe(watch);
    } finally {
      signal?.removeEventListener("abort", stop);
      await this.kill();
      rendezvous.close();
      rmSync(this.folder, { recursive: true, force: true });
    }
  }

  private start(rank: number, port: number): Bun.Subprocess {
    const { command, env, onMessage } = this.options;
    const child: Bun.Subprocess = Bun.spawn(command, {
      env: {
        ...(env ?? process.env),
        ...placeVariables(rank, this.places.length, port),
        KOALA_HEARTBEATS: this.page,
        KOALA_RANK_DEVICE: this.places[rank]?.device,
        KOALA_RANKS_NOTICE: this.notice,
      },
      stdio: ["ignore", "inherit", "inherit"],
      serialization: "json",
      // Every rank has a channel: its end tells a rank that the supervisor is gone.
      ipc: (message: FromRank) => {
        if (message.type === "failed") this.lastWords.set(rank, message);
        else onMessage?.(message);
      },
      onExit: () => {
        this.ended.push(rank);
        if (failedRank(child)) this.failed.resolve();
      },
    });
    return child;
  }

  /** Also where a rank was told to stop before it could listen, and took the others along. */
  private endedWell(): boolean {
    const { signal } = this.options;
    const stopped = (rank: Bun.Subprocess) =>
      signal?.aborted === true && (rank.signalCode === "SIGTERM" || rank.exitCode === PEER_LOST);
    return this.ranks.every((rank) => rank.exitCode === 0 || stopped(rank));
  }

  private describe(watch: Silence): Failure {
    const beats = this.beats();
    const started = beats.some(
      ({ phase, beats: count }) => count > 0 && phase !== "start" && phase !== "load",
    );
    const guilty = (rank: number) => failedRank(this.ranks[rank]) && this.ranks[rank]?.exitCode !== PEER_LOST;
    const first = this.ended.find(guilty);
    if (first === undefined) {
      watch.look();
      const { rank: silent, silentMs } = watch.culprit();
      const seconds = (silentMs / 1000).toFixed(0);
      const report = `${this.nameOf(silent)} has been silent for ${seconds} s ${placeOf(beats[silent])}.`;
      return { report, started, final: false, lost: false, place: this.places[silent] ?? null };
    }
    const words = this.lastWords.get(first);
    const place = this.places[first] ?? null;
    const lost = words?.lost ?? false;
    if (words?.final) return { report: words.error, started, final: true, lost, place };
    const said = words ? `: ${words.error.replace(/\.?$/, ".")}` : ".";
    const report = `${this.nameOf(first)} ${endOf(this.ranks[first])} ${placeOf(beats[first])}${said}`;
    return { report, started, final: false, lost, place };
  }

  /** "Rank 1", and which it was at first where that is another. */
  private nameOf(rank: number): string {
    const index = this.places[rank]?.index ?? rank;
    return index === rank ? `Rank ${rank}` : `Rank ${rank} (${index} at first)`;
  }

  /** Asks the ranks to save and end; those that do not are killed. */
  private async stop(): Promise<void> {
    for (const rank of this.ranks) rank.kill("SIGTERM");
    const limit = setTimeout(() => void this.kill(), this.options.stopGraceMs ?? 600_000);
    await Promise.all(this.ranks.map((rank) => rank.exited));
    clearTimeout(limit);
  }

  /** Checkpoints are safe at every moment, so nobody needs to be asked. The system cannot end a process that waits for a GPU
   *  which answers no more: after a while the others go on beside it. */
  private async kill(): Promise<void> {
    for (const rank of this.ranks)
      if (rank.exitCode === null && rank.signalCode === null) rank.kill("SIGKILL");
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, killedMs);
    await Promise.race([Promise.all(this.ranks.map((rank) => rank.exited)), late.promise]);
    clearTimeout(timer);
    for (const rank of this.ranks) rank.unref();
  }
}

/** Who has not changed its record since when, by the supervisor's own clock: a machine that slept is not silent.
 *  A rank in a collective may wait for another that writes files for minutes, so only those that the others wait for count. */
class Silence {
  private last: { beat: Beat; rank: number; since: number }[] = [];

  constructor(
    private readonly read: () => Beat[],
    private readonly limitMs: number,
  ) {
    this.look();
  }

  /** True where a rank is silent for too long. */
  look(): boolean {
    const now = performance.now();
    this.last = this.read().map((beat, rank) => {
      const before = this.last[rank];
      return { beat, rank, since: before?.beat.beats === beat.beats ? before.since : now };
    });
    return this.suspects().some(({ since }) => now - since > this.limitMs);
  }

  /** The rank that fell silent first, and for how long. */
  culprit(): { rank: number; silentMs: number } {
    const [first] = this.suspects().sort((a, b) => a.beat.at - b.beat.at);
    return { rank: first?.rank ?? 0, silentMs: performance.now() - (first?.since ?? 0) };
  }

  /** Those in no collective; where all are in one, they wait for each other. */
  private suspects() {
    const alive = this.last.filter(({ beat }) => beat.phase !== "end");
    const busy = alive.filter(({ beat }) => !beat.waits);
    return busy.length > 0 ? busy : alive;
  }
}

/** Within which a process ends that was killed. */
const killedMs = 60_000;

const failedRank = (rank: Bun.Subprocess | undefined): boolean =>
  rank !== undefined && (rank.signalCode !== null || (rank.exitCode !== null && rank.exitCode !== 0));

function endOf(rank: Bun.Subprocess | undefined): string {
  if (rank?.signalCode) return `was ended by ${rank.signalCode}`;
  return rank?.exitCode === DEVICE_LOST ? "lost its device" : `ended with exit code ${rank?.exitCode}`;
}

/** "in step 12, backward of layer 3, in koala_document_attention_backward" */
function placeOf(beat: Beat | undefined): string {
  if (!beat || beat.beats === 0) return "before it came to its first step";
  const of = beat.block === "" ? "" : ` of ${beat.block}`;
  const op = beat.op === null ? "" : `, ${beat.op.runs ? "in" : "after"} ${beat.op.symbol}`;
  return `in step ${beat.step}, ${beat.phase}${of}${op}`;
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}
