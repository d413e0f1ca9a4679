/** Whether a device still works, asked of a process of its own: a GPU that fell off the bus can hang or end whoever opens it,
 *  and one whose context died works again in another process.
 *  Always: an answer comes within the time, whatever the device does. */
import { Arena } from "../../tensor/arena.ts";
import { openDevice } from "../../tensor/open_device.ts";
import { TrainOps } from "../ops.ts";
import type { Environment } from "./environment.ts";
import type { ProbePlace } from "./places.ts";

/** What `koala rank` is asked instead of training. */
export interface ProbeRequest {
  probe: string;
}

export const isProbe = (request: object): request is ProbeRequest => "probe" in request;

/** Asks once for all places of a device; processors are not asked. */
export function placeProbe(
  command: (request: string) => string[],
  env = process.env as Environment,
): ProbePlace {
  const asked = new Map<string, Promise<string | null>>();
  return ({ device }) => {
    if (device === "cpu") return Promise.resolve(null);
    const before = asked.get(device);
    if (before !== undefined) return before;
    const answer = probeDevice(device, command, { env }).finally(() => asked.delete(device));
    asked.set(device, answer);
    return answer;
  };
}

/** Asks a child; its words, or what became of it, where the device does not work. */
export async function probeDevice(
  device: string,
  command: (request: string) => string[],
  { timeoutMs = 60_000, env = process.env as Environment } = {},
): Promise<string | null> {
  const request: ProbeRequest = { probe: device };
  const child = Bun.spawn(command(JSON.stringify(request)), {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  const words = new Response(child.stderr).text();
  const code = await child.exited;
  clearTimeout(timer);
  if (code === 0) return null;
  if (late) return `it did not answer within ${timeoutMs / 1000} s`;
  const last = (await words).trim().split("\n").at(-1) ?? "";
  return last === "" ? `its check ended by ${child.signalCode ?? `exit code ${code}`}` : withoutFrame(last);
}

/** "koala: The GPU ... ." inside another sentence. */
const withoutFrame = (sentence: string): string => sentence.replace(/^koala: /, "").replace(/\.$/, "");

/** Opens the device and lets it compute; throws where it cannot or gets another result. */
export function tryDevice(name: string): void {
  const n = 2 ** 20;
  const device = openDevice(name, { threads: 1 });
  const arena = new Arena(device, "probe", 8 * n);
  const [x, y] = [arena.tensor([n], "f32"), arena.tensor([n], "f32")];
  const values = Float32Array.from({ length: n }, (_, i) => i % 1024);
  device.upload(x, values);
  device.upload(y, values);
  new TrainOps(device).axpby(y, x, 2, 1);
  const got = device.download(y);
  const wrong = got.findIndex((value, i) => value !== 3 * (values[i] as number));
  if (wrong >= 0)
    throw new Error(`${name} computes ${got[wrong]} where ${3 * (values[wrong] as number)} is right`);
  arena.close();
  device.close();
}
