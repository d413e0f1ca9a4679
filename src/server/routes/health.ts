/** Whether the process lives, whether its models work, whether it wants requests; and /metrics.
 *  A model whose engine has made no step for long while something runs is stalled: that is unhealthy, not busy. */

import type { Context } from "hono";
import { z } from "zod";
import type { ServerContext } from "../context.ts";
import { defineRoute } from "../route.ts";

const healthSchema = z
  .object({ status: z.string().describe("ok, or what is wrong"), models: z.record(z.string(), z.string()) })
  .meta({ id: "Health" });

export const livezRoute = defineRoute({
  method: "get",
  path: "/livez",
  operationId: "livez",
  tag: "Operations",
  summary: "200 while the process answers",
  public: true,
  response: healthSchema.pick({ status: true }),
  handle: (c) => c.json({ status: "ok" }),
});

export const readyzRoute = defineRoute({
  method: "get",
  path: "/readyz",
  operationId: "readyz",
  tag: "Operations",
  summary: "200 when requests are welcome; 503 while loading, draining, failed or stalled",
  public: true,
  response: healthSchema,
  handle: (c, call) => {
    const draining = call.context.lifecycle.state !== "serving";
    return report(c, call.context, draining ? "draining" : null);
  },
});

export const healthRoute = defineRoute({
  method: "get",
  path: "/health",
  operationId: "health",
  tag: "Operations",
  summary: "200 while every model works; 503 while one is loading, failed or stalled",
  public: true,
  response: healthSchema,
  handle: (c, call) => report(c, call.context, null),
});

/** EasyLM's clients poll this until it answers at all; ours answers 503 until requests would work. */
export const easylmReadyRoute = defineRoute({
  method: "get",
  path: "/ready",
  operationId: "easylmReady",
  tag: "EasyLM",
  summary: 'The JSON string "Ready!\\n" when requests are welcome, else 503',
  response: z.string(),
  handle: (c, call) => {
    const trouble =
      call.context.lifecycle.state !== "serving" ||
      Object.values(modelStates(call.context)).some((state) => state !== "ready");
    return trouble ? report(c, call.context, "not ready") : c.json("Ready!\n");
  },
});

export const metricsRoute = defineRoute({
  method: "get",
  path: "/metrics",
  operationId: "metrics",
  tag: "Operations",
  summary: "Prometheus metrics, under koala_ and under vLLM's names",
  contentType: "text/plain; version=0.0.4; charset=utf-8",
  response: z.string(),
  handle: (c, call) => {
    const { metrics, models, lifecycle } = call.context;
    return c.body(metrics.render(models.list(), lifecycle.inFlight), 200, {
      "content-type": "text/plain; version=0.0.4; charset=utf-8",
    });
  },
});

function report(c: Context, context: ServerContext, trouble: string | null): Response {
  const models = modelStates(context);
  const worst = ["failed", "stopped", "stalled", "loading"].find((state) =>
    Object.values(models).includes(state),
  );
  const status = trouble ?? worst ?? (Object.keys(models).length === 0 ? "no model" : "ok");
  return c.json({ status, models }, status === "ok" ? 200 : 503);
}

function modelStates(context: ServerContext): Record<string, string> {
  const state = (model: ReturnType<ServerContext["models"]["find"]>): string =>
    model.engine.state === "ready" && model.engine.stats.stalledMs > context.limits.stalledMs
      ? "stalled"
      : model.engine.state;
  return Object.fromEntries(context.models.list().map((model) => [model.id, state(model)]));
}
