/** The server on a port, and its end: readiness off, a grace period for what runs, then abort, then the engines.
 *  Bun's defaults do not suit language models: an idle timeout of 10 s would cut every slow answer. */

import type { Hono } from "hono";
import { UsageError } from "../util/errors.ts";
import type { ServerContext } from "./context.ts";

export interface ListenOptions {
  context: ServerContext;
  host: string;
  /** 0: any free one. */
  port: number;
  /** How long running requests may go on after SIGTERM. */
  graceMs?: number;
  /** Close on SIGTERM and SIGINT; the second signal skips the grace period. */
  signals?: boolean;
}

export interface RunningServer {
  url: string;
  port: number;
  /** Drains and stops; the same promise however often it is called. */
  close(options?: { graceMs?: number }): Promise<void>;
  /** Resolves when the server and its engines have stopped. */
  closed: Promise<void>;
}

const GRACE_MS = 30_000;
/** After the abort, finish reasons still have to reach the clients. */
const FAREWELL_MS = 2000;
const FLUSH_POLL_MS = 5;

export function listen(app: Hono, options: ListenOptions): RunningServer {
  const { context, host, port, graceMs = GRACE_MS } = options;
  const server = serve(app, { host, port });
  let ended!: () => void;
  const closed = new Promise<void>((resolve) => (ended = resolve));
  let closing: Promise<void> | null = null;
  const close = (how: { graceMs?: number } = {}): Promise<void> => {
    closing ??= shutDown(server, context, how.graceMs ?? graceMs).finally(() => {
      process.off("SIGTERM", onSignal);
      process.off("SIGINT", onSignal);
      ended();
    });
    return closing;
  };
  const onSignal = (): void => {
    if (closing !== null) context.lifecycle.abort();
    void close();
  };
  if (options.signals ?? false) {
    process.on("SIGTERM", onSignal);
    process.on("SIGINT", onSignal);
  }
  const shown = host.includes(":") ? `[${host}]` : host;
  return { url: `http://${shown}:${server.port}`, port: server.port!, close, closed };
}

type BunServer = ReturnType<typeof Bun.serve>;

function serve(app: Hono, { host, port }: { host: string; port: number }): BunServer {
  try {
    return Bun.serve({
      hostname: host,
      port,
      idleTimeout: 0,
      // Whoever reads a body counts its bytes and answers in OpenAI's shape; Bun's own 413 has no body.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      development: false,
      // Outside development Bun shares ports: a second server would take half of the requests without a word.
      reusePort: false,
      fetch: (request, server) => app.fetch(request, { server }),
      error: () => new Response(null, { status: 500 }),
    });
  } catch (error) {
    const code = (error as { code?: string }).code;
    const reason =
      code === "EADDRINUSE"
        ? "it is in use"
        : code === "EACCES"
          ? "this user may not use it"
          : String((error as Error).message);
    throw new UsageError(
      `Cannot listen on ${host}:${port}: ${reason}. Choose another with --port or --host.`,
    );
  }
}

async function shutDown(server: BunServer, context: ServerContext, graceMs: number): Promise<void> {
  const { lifecycle, models } = context;
  // The socket stays open: a refused connection looks like a crash, a 503 on /readyz like what it is.
  lifecycle.drain();
  if (!(await lifecycle.idle(graceMs))) {
    lifecycle.abort();
    await lifecycle.idle(FAREWELL_MS);
  }
  // server.stop() alone waits for a connection that was busy when it was called, also when it is idle and kept alive since.
  for (let waited = 0; server.pendingRequests > 0 && waited < FAREWELL_MS; waited += FLUSH_POLL_MS)
    await Bun.sleep(FLUSH_POLL_MS);
  await server.stop(true);
  await Promise.allSettled(models.list().map((model) => model.engine.stop()));
  lifecycle.stop();
}
