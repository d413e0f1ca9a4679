/** A real `koala serve` on a free port, started as users start it and stopped for certain. */
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");

export interface RunningServer {
  url: string;
  process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  /** What it has written to stderr so far. */
  stderr(): string;
  stop(signal?: NodeJS.Signals): Promise<number>;
}

/** Resolves when /readyz answers 200. `command` defaults to the source tree's program. */
export async function startKoala(
  args: string[],
  command = [process.execPath, join(root, "src/cli/main.ts")],
): Promise<RunningServer> {
  const port = freePort();
  const child = Bun.spawn([...command, "serve", ...args, "--port", String(port)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  let errors = "";
  const drain = async () => {
    for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) errors += chunk;
  };
  const drained = drain();
  const url = `http://127.0.0.1:${port}`;
  for (let i = 0; ; i++) {
    const answer = await fetch(`${url}/readyz`).catch(() => null);
    if (answer?.status === 200) break;
    if (child.exitCode !== null || i > 600) {
      child.kill("SIGKILL");
      await drained;
      throw new Error(`koala serve ${args.join(" ")} did not become ready: ${errors}`);
    }
    await Bun.sleep(25);
  }
  return {
    url,
    process: child,
    stderr: () => errors,
    stop: async (signal = "SIGTERM") => {
      child.kill(signal);
      return child.exited;
    },
  };
}

function freePort(): number {
  const probe = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = probe;
  probe.stop(true);
  return port as number;
}
