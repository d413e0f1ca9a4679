/** How ranks find each other: every rank tells one host who and where it is and what it offers; when all are there, the host
 *  tells them the name of their communicator, which says what carries it (transport.ts).
 *  Always: the name is new for every meeting, so what a killed run left behind is never joined. */
import { hostname } from "node:os";
import { z } from "zod";
import { type Communicator, SoloCommunicator } from "../../tensor/communicator.ts";
import type { Device } from "../../tensor/device.ts";
import { joinSharedMemory, offerOf } from "../../tensor/shared_memory.ts";
import { UsageError } from "../../util/errors.ts";
import type { RankPlace } from "./environment.ts";
import { chooseTransport, type TransportAnswer, wishes, wishFromEnvironment } from "./transport.ts";

export interface JoinOptions {
  /** How long to wait for the other ranks, here and in every collective. */
  timeoutSeconds?: number;
  /** What all ranks must agree on, e.g. the recipe's hash. */
  agreement?: string;
  /** Told before this rank waits for a collective (its symbol) and after (null). */
  onWait?: (symbol: string | null) => void;
  /** Rank 0 of ranks with GPUs is told what carries their collectives: one sentence. */
  onTransport?: (sentence: string) => void;
}

/** Meets the other ranks. Throws UsageError where they do not come or do not belong together. */
export async function joinRanks(
  device: Device,
  place: RankPlace | null,
  { timeoutSeconds = 1800, agreement = "", onWait = () => {}, onTransport = () => {} }: JoinOptions = {},
): Promise<Communicator> {
  if (place === null || place.world === 1) return new SoloCommunicator(device);
  const { rank, world } = place;
  const host =
    rank === 0 && !place.hosted
      ? hostRendezvous(world, { hostname: place.address, port: place.port, run: place.run, timeoutSeconds })
      : null;
  try {
    const own = { wish: wishFromEnvironment(), offer: offerOf(device) };
    const { name, carried } = await meet(place, agreement, own, timeoutSeconds * 1000);
    if (carried !== undefined && rank === 0) onTransport(carried);
    return joinSharedMemory(device, { name, rank, world, timeoutSeconds, onWait });
  } finally {
    host?.close();
  }
}

export interface Rendezvous {
  port: number;
  close(): void;
}

/** What koala_comm_offer says of a rank. */
const offerSchema = z.strictObject({
  nccl: z.string(),
  device: z.string(),
  name: z.string(),
  peers: z.array(z.string()),
});

const introductionSchema = z.strictObject({
  rank: z.int().min(0),
  world: z.int().min(1),
  run: z.string(),
  machine: z.string(),
  agreement: z.string(),
  wish: z.enum(wishes).default("auto"),
  offer: offerSchema,
});
type Introduction = z.infer<typeof introductionSchema>;

type Answer = TransportAnswer | { error: string };

export interface RendezvousOptions {
  hostname?: string;
  /** 0 takes a free one. */
  port?: number;
  /** Ranks of other runs are sent away, and do not disturb this one. */
  run?: string;
  /** After which those who came are told who did not. */
  timeoutSeconds?: number;
}

interface Visitor {
  socket: Bun.Socket<{ text: string }>;
  introduction: Introduction;
}

/** Listens for `world` ranks. */
export function hostRendezvous(
  world: number,
  { hostname = "127.0.0.1", port = 0, run, timeoutSeconds }: RendezvousOptions = {},
): Rendezvous {
  let joined: Visitor[] = [];
  let answer: Answer | null = null;
  const tell = (all: Visitor[], text: Answer) => {
    for (const { socket } of all) socket.end(`${JSON.stringify(text)}\n`);
  };
  const answerAll = (text: Answer) => tell(joined.splice(0), (answer = text));
  const server = listen(hostname, port, {
    onIntroduction: (visitor) => {
      const { introduction } = visitor;
      if (run !== undefined && introduction.run !== run)
        return tell([visitor], { error: otherRun(introduction, run, `${hostname}:${port}`) });
      const error = objection(
        introduction,
        world,
        joined.map((one) => one.introduction),
      );
      joined.push(visitor);
      if (error !== null) answerAll({ error });
      else if (joined.length === world) answerAll(chooseTransport(joined.map((one) => one.introduction)));
      else if (answer !== null) answerAll(answer);
    },
    // Whoever starts it again must not meet its ghost.
    onLeave: (socket) => (joined = joined.filter((one) => one.socket !== socket)),
  });
  const giveUp = () => answerAll({ error: absence(world, joined, timeoutSeconds ?? 0) });
  const timer = timeoutSeconds === undefined ? undefined : setTimeout(giveUp, timeoutSeconds * 1000);
  const close = () => {
    clearTimeout(timer);
    server.stop(true);
  };
  return { port: server.port, close };
}

const otherRun = ({ rank, run }: Introduction, expected: string, place: string): string =>
  `Rank ${rank} belongs to run "${run}", but those who meet at ${place} to run "${expected}". Give every run a MASTER_PORT of its own.`;

/** "Ranks 1 and 3 of 4 did not come ..." */
function absence(world: number, joined: Visitor[], timeoutSeconds: number): string {
  const came = new Set(joined.map(({ introduction }) => introduction.rank));
  const missing = Array.from({ length: world }, (_, rank) => rank).filter((rank) => !came.has(rank));
  const named = new Intl.ListFormat("en").format(missing.map(String));
  return `Rank${missing.length > 1 ? "s" : ""} ${named} of ${world} did not come within ${timeoutSeconds} s. Start every rank with the same MASTER_ADDR and MASTER_PORT.`;
}

interface ListenHandlers {
  onIntroduction: (visitor: Visitor) => void;
  onLeave: (socket: Bun.Socket<{ text: string }>) => void;
}

function listen(
  hostname: string,
  port: number,
  { onIntroduction, onLeave }: ListenHandlers,
): Bun.TCPSocketListener<{ text: string }> {
  try {
    return Bun.listen<{ text: string }>({
      hostname,
      port,
      socket: {
        open: (socket) => {
          socket.data = { text: "" };
        },
        data: (socket, bytes) => {
          const text = (socket.data.text += bytes.toString());
          if (text.length > 10_000) socket.end();
          if (!text.endsWith("\n")) return;
          const introduction = parseIntroduction(text);
          // Whoever speaks another language is no rank.
          if (introduction === null) socket.end();
          else onIntroduction({ socket, introduction });
        },
        close: onLeave,
      },
    });
  } catch (error) {
    throw new UsageError(
      `Rank 0 cannot listen at ${hostname}:${port} (${(error as Error).message}). Set MASTER_ADDR and MASTER_PORT to a free port of this machine.`,
    );
  }
}

function parseIntroduction(text: string): Introduction | null {
  try {
    return introductionSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

/** Why this rank does not fit to those that have come; null where it does. */
function objection(own: Introduction, world: number, others: Introduction[]): string | null {
  if (own.world !== world) return `Rank ${own.rank} expects ${own.world} ranks and the others ${world}.`;
  if (others.some(({ rank }) => rank === own.rank))
    return `Two processes say that they are rank ${own.rank}.`;
  const [first] = others;
  if (first === undefined) return null;
  if (own.agreement !== first.agreement)
    return `Rank ${own.rank} and rank ${first.rank} were given different recipes or data.`;
  return null;
}

/** Introduces this rank, as often as it takes until the host is up. Returns the name of the communicator. */
async function meet(
  place: RankPlace,
  agreement: string,
  own: Pick<Introduction, "wish" | "offer">,
  timeoutMs: number,
): Promise<TransportAnswer> {
  const { rank, world, run, address, port } = place;
  const introduction: Introduction = { rank, world, run, machine: hostname(), agreement, ...own };
  // The host gives up first where it began with this rank, and says who is missing.
  const deadline = performance.now() + timeoutMs + 1000;
  for (let pause = 10; ; pause = Math.min(2 * pause, 1000)) {
    const answer = await ask(address, port, introduction, deadline - performance.now());
    if (answer !== null && "error" in answer) throw new UsageError(answer.error);
    if (answer !== null) return answer;
    if (performance.now() + pause > deadline)
      throw new UsageError(
        `Rank ${rank} waited ${timeoutMs / 1000} s for all ${world} ranks to meet at ${address}:${port}${place.hosted ? "" : ", where rank 0 listens"}. Start the missing ones with the same MASTER_ADDR and MASTER_PORT.`,
      );
    await Bun.sleep(pause);
  }
}

/** One attempt; null where nobody listens, the host went away or time is over. */
function ask(
  hostname: string,
  port: number,
  introduction: Introduction,
  timeoutMs: number,
): Promise<Answer | null> {
  const { promise, resolve } = Promise.withResolvers<Answer | null>();
  let text = "";
  const timer = setTimeout(() => resolve(null), timeoutMs);
  const socket = Bun.connect({
    hostname,
    port,
    socket: {
      open: (own) => void own.write(`${JSON.stringify(introduction)}\n`),
      data: (_, bytes) => {
        text += bytes.toString();
        if (text.endsWith("\n")) resolve(JSON.parse(text) as Answer);
      },
      close: () => resolve(null),
      connectError: () => resolve(null),
    },
  }).catch(() => resolve(null));
  return promise.finally(() => {
    clearTimeout(timer);
    void socket.then((own) => own?.end());
  });
}
