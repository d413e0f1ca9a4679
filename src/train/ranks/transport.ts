/** What carries the collectives of a run: NCCL where each rank has a GPU of its own, else memory that GPUs of one machine read
 *  from each other (ranks of one GPU are always such), else shared memory of the machine. KOALA_COMM forces one of them.
 *  Always: all give the same bits; whoever is forced and cannot is told why, and nothing else is taken. */
import type { CommunicatorOffer } from "../../tensor/shared_memory.ts";
import { UsageError } from "../../util/errors.ts";

export const wishes = ["auto", "memory", "peer", "nccl"] as const;
export type TransportWish = (typeof wishes)[number];

/** A rank, as it introduces itself. */
export interface Traveller {
  rank: number;
  machine: string;
  wish: TransportWish;
  offer: CommunicatorOffer;
}

/** The communicator's name; `carried` says in a sentence what carries it, where ranks have GPUs. */
export interface TransportAnswer {
  name: string;
  carried?: string;
}

/** KOALA_COMM. Throws UsageError for what it cannot be. */
export function wishFromEnvironment(text = process.env.KOALA_COMM): TransportWish {
  const wish = wishes.find((known) => known === (text || "auto"));
  if (wish !== undefined) return wish;
  throw new UsageError(`KOALA_COMM is "${text}"; there are ${wishes.join(", ")}.`);
}

/** The name that all are told, once they are there. */
export function chooseTransport(ranks: Traveller[]): TransportAnswer | { error: string } {
  const [first, ...others] = ranks.toSorted((a, b) => a.rank - b.rank) as [Traveller, ...Traveller[]];
  const all = [first, ...others];
  const { wish } = first;
  const other = others.find((one) => one.wish !== wish);
  if (other !== undefined)
    return {
      error: `KOALA_COMM is "${wish}" for rank ${first.rank} and "${other.wish}" for rank ${other.rank}. Set it alike for all ranks.`,
    };
  const elsewhere = others.find(({ machine }) => machine !== first.machine);
  const object = elsewhere === undefined ? `/koala-${crypto.randomUUID()}` : "";
  const noNccl = ncclObstacle(all);
  const noPeer = peerObstacle(all);
  const ways: [Exclude<TransportWish, "auto">, string | null, () => TransportAnswer][] = [
    [
      "nccl",
      noNccl,
      () => ({
        name: `${first.offer.name}${object}`,
        carried: `Collectives go through NCCL ${first.offer.nccl}.`,
      }),
    ],
    ["peer", noPeer, () => ({ name: `peer:${object}`, carried: peerSentence(all, noNccl) })],
    [
      "memory",
      elsewhere === undefined ? null : apart(first, elsewhere),
      () => stagedAnswer(all, object, noNccl, noPeer),
    ],
  ];
  const open = ways.filter(([way]) => wish === "auto" || way === wish);
  const [, , answer] = open.find(([, obstacle]) => obstacle === null) ?? [];
  if (answer !== undefined) return answer();
  if (wish !== "auto")
    return { error: `KOALA_COMM is "${wish}", but ${open[0]?.[1]}. Unset it to take what there is.` };
  return {
    error: `Rank ${elsewhere?.rank} runs on ${elsewhere?.machine} and rank ${first.rank} on ${first.machine}, but ${noNccl}; without NCCL, ranks talk through memory of one machine.`,
  };
}

const apart = (first: Traveller, other: Traveller): string =>
  `rank ${other.rank} runs on ${other.machine} and rank ${first.rank} on ${first.machine}`;

/** "... the memory of the GPU 01:00.0, which 8 ranks share" */
function peerSentence(ranks: Traveller[], noNccl: string | null): string {
  const gpus = new Set(ranks.map(({ offer }) => offer.device));
  const [only = ""] = gpus;
  if (gpus.size === 1)
    return `Collectives go through the memory of the GPU ${only}, which ${ranks.length} ranks share.`;
  const why = noNccl === null ? "" : ` (not NCCL: ${noNccl})`;
  return `Collectives go through memory that ${gpus.size} GPUs read from each other${why}.`;
}

function stagedAnswer(
  ranks: Traveller[],
  name: string,
  noNccl: string | null,
  noPeer: string | null,
): TransportAnswer {
  if (ranks.every(({ offer }) => offer.device === "")) return { name };
  const forced = ranks.some(({ wish }) => wish === "memory");
  const reasons = forced ? "KOALA_COMM asks for it" : [...new Set([noNccl, noPeer])].join("; ");
  return {
    name,
    carried: `Collectives go through shared memory of this machine, which is slower than memory of GPUs: ${reasons}. \`koala doctor\` shows what was searched.`,
  };
}

/** Why these ranks cannot talk through NCCL; null where they can. */
function ncclObstacle(ranks: Traveller[]): string | null {
  const without = ranks.find(({ offer }) => offer.nccl === "");
  if (without !== undefined)
    return `rank ${without.rank} has no ${without.offer.device === "" ? "GPU" : "NCCL"}`;
  const [first] = ranks as [Traveller];
  const other = ranks.find(({ offer }) => offer.nccl !== first.offer.nccl);
  if (other !== undefined)
    return `rank ${first.rank} has NCCL ${first.offer.nccl} and rank ${other.rank} ${other.offer.nccl}`;
  const owners = new Map<string, number>();
  for (const { rank, machine, offer } of ranks) {
    const owner = owners.get(`${machine} ${offer.device}`);
    if (owner !== undefined) return `ranks ${owner} and ${rank} share the GPU ${offer.device}`;
    owners.set(`${machine} ${offer.device}`, rank);
  }
  return null;
}

/** Why these ranks cannot read each other's memory; null where they can. */
function peerObstacle(ranks: Traveller[]): string | null {
  const [first, ...others] = ranks as [Traveller, ...Traveller[]];
  const elsewhere = others.find(({ machine }) => machine !== first.machine);
  if (elsewhere !== undefined) return apart(first, elsewhere);
  const without = ranks.find(({ offer }) => offer.device === "");
  if (without !== undefined) return `rank ${without.rank} has no GPU`;
  for (const { rank, offer } of ranks) {
    if (offer.peers.length === 0) return `the GPU of rank ${rank} shows no memory to other processes`;
    const stranger = ranks.find((one) => !offer.peers.includes(one.offer.device));
    if (stranger !== undefined)
      return `the GPU ${offer.device} of rank ${rank} does not read the memory of the GPU ${stranger.offer.device} of rank ${stranger.rank}`;
  }
  return null;
}
