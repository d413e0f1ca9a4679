/** Which rank a process is, by the variables it was started with: torchrun's (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
 *  MASTER_PORT), or those of Slurm, Kubeflow Trainer, LeaderWorkerSet and indexed Kubernetes jobs, translated into them.
 *  Always: variables that contradict each other or say half are a UsageError; RANK goes before all translations. */
import { UsageError } from "../../util/errors.ts";

export interface RankPlace {
  rank: number;
  world: number;
  localRank: number;
  /** Ranks on this machine. */
  localWorld: number;
  address: string;
  port: number;
  /** True where the program that started the ranks hosts the meeting; otherwise rank 0 does. */
  hosted: boolean;
  /** What torchrun or the scheduler calls this run; empty where nobody gave it a name. */
  run: string;
}

/** Flat blocks can be shared out evenly among so many. */
const ranksMax = 8;

export type Environment = Record<string, string | undefined>;

/** This process's place, or null where it was started alone. Throws UsageError for variables that contradict each other. */
export function placeFromEnvironment(given: Environment = process.env): RankPlace | null {
  const env = translated(given);
  if (env.RANK === undefined && env.WORLD_SIZE === undefined) return null;
  const number = (name: string, fallback?: number): number => {
    const text = env[name] ?? fallback?.toString();
    if (text === undefined || !/^\d+$/.test(text))
      throw new UsageError(
        `The variable ${name} is ${text === undefined ? "not set" : `"${text}"`} and must be a whole number where RANK or WORLD_SIZE is set. Unset both to train with one process.`,
      );
    return Number(text);
  };
  const [rank, world] = [number("RANK"), number("WORLD_SIZE")];
  if (rank >= world)
    throw new UsageError(`RANK is ${rank} and WORLD_SIZE ${world}; ranks count from 0 to WORLD_SIZE - 1.`);
  if (world > ranksMax)
    throw new UsageError(`WORLD_SIZE is ${world}; at most ${ranksMax} ranks train together.`);
  // torchrun's own store listens at MASTER_PORT in its agent, so the next port is ours.
  const agentStore = env.TORCHELASTIC_USE_AGENT_STORE === "True" ? 1 : 0;
  return {
    rank,
    world,
    localRank: number("LOCAL_RANK", rank),
    localWorld: number("LOCAL_WORLD_SIZE", world),
    address: env.MASTER_ADDR ?? "127.0.0.1",
    port: number("MASTER_PORT", world === 1 ? 0 : undefined) + agentStore,
    hosted: env.KOALA_RENDEZVOUS === "hosted",
    run: env.TORCHELASTIC_RUN_ID ?? "",
  };
}

/** The variables that give a rank started by this program its place. */
export const placeVariables = (rank: number, world: number, port: number): Environment => ({
  RANK: String(rank),
  WORLD_SIZE: String(world),
  LOCAL_RANK: String(rank),
  LOCAL_WORLD_SIZE: String(world),
  MASTER_ADDR: "127.0.0.1",
  MASTER_PORT: String(port),
  KOALA_RENDEZVOUS: "hosted",
});

/** Compute threads of each rank: cores are divided, and every rank has one. */
export const threadsOfRank = (cores: number, localWorld: number): number =>
  Math.max(1, Math.floor(cores / localWorld));

/** Where a scheduler that has no port of its own lets rank 0 listen: torchrun's default. */
const usualPort = "29500";

/** The environment with torchrun's variables, where a scheduler gave others. */
function translated(env: Environment): Environment {
  if (env.RANK !== undefined) return env;
  for (const translate of [kubeflow, leaderWorkerSet, indexedJob, slurm]) {
    const place = translate(env);
    // What the user set beside the scheduler is meant.
    if (place !== null) return { ...place, ...withoutUnset(env) };
  }
  return env;
}

const withoutUnset = (env: Environment): Environment =>
  Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined));

/** Kubeflow Trainer tells a node what torchrun is to be told (PET_ is torchrun's own prefix). */
function kubeflow(env: Environment): Environment | null {
  if (env.PET_NNODES === undefined || env.PET_NODE_RANK === undefined) return null;
  const processes = env.PET_NPROC_PER_NODE ?? "1";
  if (processes !== "1")
    throw new UsageError(
      `PET_NPROC_PER_NODE is "${processes}", and this process is not started by torchrun. Start the command as torchrun --no-python koala train ..., or set numProcPerNode to 1.`,
    );
  return ofNode(env.PET_NODE_RANK, env.PET_NNODES, env.PET_MASTER_ADDR, env.PET_MASTER_PORT);
}

/** LeaderWorkerSet: a pod a rank, the leader is the first. */
function leaderWorkerSet(env: Environment): Environment | null {
  if (env.LWS_WORKER_INDEX === undefined || env.LWS_GROUP_SIZE === undefined) return null;
  return ofNode(env.LWS_WORKER_INDEX, env.LWS_GROUP_SIZE, env.LWS_LEADER_ADDRESS, undefined);
}

/** A pod of an indexed Kubernetes job (JobSet makes such): without WORLD_SIZE the pods have nothing to do with each other. */
function indexedJob(env: Environment): Environment | null {
  if (env.JOB_COMPLETION_INDEX === undefined || env.WORLD_SIZE === undefined) return null;
  if (env.MASTER_ADDR === undefined && env.WORLD_SIZE !== "1")
    throw new UsageError(
      `WORLD_SIZE is ${env.WORLD_SIZE} in pod ${env.JOB_COMPLETION_INDEX} of an indexed job, and MASTER_ADDR is not set. Set it to the name of the first pod (job-0.service).`,
    );
  return ofNode(env.JOB_COMPLETION_INDEX, env.WORLD_SIZE, env.MASTER_ADDR, undefined);
}

const ofNode = (
  rank: string,
  world: string,
  address: string | undefined,
  port: string | undefined,
): Environment => ({
  RANK: rank,
  WORLD_SIZE: world,
  LOCAL_RANK: "0",
  LOCAL_WORLD_SIZE: "1",
  ...(address === undefined ? {} : { MASTER_ADDR: address }),
  MASTER_PORT: port ?? usualPort,
});

/** Ids of steps that srun did not start: the batch script, an allocation's shell, pending ones. */
const firstSpecialStep = 0xff_ff_ff_f0;

/** A task that srun started. A batch script sees most of these variables too, but is no rank. */
function slurm(env: Environment): Environment | null {
  const { SLURM_PROCID: rank, SLURM_STEP_ID: step } = env;
  const world = env.SLURM_STEP_NUM_TASKS ?? env.SLURM_NTASKS;
  if (rank === undefined || world === undefined || world === "1") return null;
  if (step === undefined || Number(step) >= firstSpecialStep) return null;
  const nodes = env.SLURM_STEP_NODELIST ?? env.SLURM_JOB_NODELIST ?? env.SLURM_NODELIST;
  const job = Number(env.SLURM_JOB_ID ?? 0);
  return {
    RANK: rank,
    WORLD_SIZE: world,
    LOCAL_RANK: env.SLURM_LOCALID ?? rank,
    LOCAL_WORLD_SIZE: String(
      tasksOfNode(env.SLURM_STEP_TASKS_PER_NODE ?? env.SLURM_TASKS_PER_NODE, env.SLURM_NODEID) ?? world,
    ),
    ...(nodes === undefined ? {} : { MASTER_ADDR: firstHost(nodes) }),
    // Steps that run at once on a node listen at different ports.
    MASTER_PORT: String(20_000 + ((job * 8 + Number(step)) % 10_000)),
    TORCHELASTIC_RUN_ID: `slurm ${env.SLURM_JOB_ID ?? ""}.${step}`,
  };
}

/** The tasks of node `node` by Slurm's list of counts: "4(x2),3" is 4, 4, 3. */
function tasksOfNode(counts: string | undefined, node: string | undefined): number | null {
  if (counts === undefined || node === undefined) return null;
  const all = counts.split(",").flatMap((text) => {
    const [, count, times] = /^(\d+)(?:\(x(\d+)\))?$/.exec(text) ?? [];
    return count === undefined ? [] : Array<number>(Number(times ?? 1)).fill(Number(count));
  });
  return all[Number(node)] ?? null;
}

/** The first host of Slurm's list: "gpu[03-05,9],cpu1" begins with gpu03, "rack[1-2]n[01-16]" with rack1n01. */
export function firstHost(nodes: string): string {
  const end = [...nodes].findIndex((letter, i) => letter === "," && !isInside(nodes, i));
  const first = end < 0 ? nodes : nodes.slice(0, end);
  return first.replace(/\[([^\],-]+)[^\]]*\]/g, "$1");
}

const isInside = (text: string, at: number): boolean => text.lastIndexOf("[", at) > text.lastIndexOf("]", at);
