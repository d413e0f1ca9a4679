/** Planned deaths, with which tests prove that a run survives them: KOALA_FAULT=point:step:rank kills that rank with
 *  SIGKILL when it passes `point` in `step`. With `:once=FILE` it happens only while FILE does not exist, and makes it.
 *  `hang:` before the point makes the rank stop without dying. */
import { closeSync, openSync } from "node:fs";

export type FaultPoint =
  | "after_reduce"
  | "after_adamw_before_gather"
  | "after_step"
  | "mid_shard_write"
  | "before_manifest"
  | "before_rename"
  | "before_latest";

export function faultPoint(point: FaultPoint, step: number, rank: number): void {
  const plan = process.env.KOALA_FAULT;
  if (plan === undefined) return;
  const match = /^(hang:)?(\w+):(\d+):(\d+|any)(?::once=(.+))?$/.exec(plan);
  if (!match) throw new Error(`KOALA_FAULT=${plan} is not [hang:]point:step:rank[:once=FILE]`);
  const [, hang, wanted, atStep, atRank, once] = match;
  if (wanted !== point || Number(atStep) !== step || (atRank !== "any" && Number(atRank) !== rank)) return;
  if (once !== undefined && !claim(`${once}.${rank}`)) return;
  process.kill(process.pid, hang ? "SIGSTOP" : "SIGKILL");
}

/** True for whoever makes the file. */
function claim(file: string): boolean {
  try {
    closeSync(openSync(file, "wx"));
    return true;
  } catch {
    return false;
  }
}
