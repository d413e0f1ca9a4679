/** The HTTP server as a function from request to response: `createServer(context)` needs no port and no model.
 *  Every request takes the same way: id, host, origin, key, body, handler; every failure ends here, in OpenAI's shape. */

import { Hono, type Context } from "hono";
import { authenticate } from "./auth.ts";
import type { Page, ServerContext } from "./context.ts";
import { checkHost, checkOrigin, readJsonObject, requestIdOf } from "./edge.ts";
import { unavailable, type ErrorBody } from "./errors.ts";
import { failed } from "./requests.ts";
import type { Call, Route } from "./route.ts";
import { chatCompletionsRoute } from "./routes/chat.ts";
import { completionsRoute } from "./routes/completions.ts";
import { documentRoutes } from "./routes/documents.ts";
import {
  easylmChatRoute,
  generateRoute,
  greedyUntilRoute,
  loglikelihoodRoute,
  rollingRoute,
} from "./routes/easylm.ts";
import { embeddingsRoute } from "./routes/embeddings.ts";
import { easylmReadyRoute, healthRoute, livezRoute, metricsRoute, readyzRoute } from "./routes/health.ts";
import { createFileRoute, deleteFileRoute, fileContentRoute, fileRoute, filesRoute } from "./routes/files.ts";
import {
  cancelJobRoute,
  createJobRoute,
  jobCheckpointsRoute,
  jobEventsRoute,
  jobMetricsRoute,
  jobRoute,
  jobsRoute,
  pauseJobRoute,
  resumeJobRoute,
} from "./routes/fine_tuning.ts";
import { deleteModelRoute, modelRoute, modelsRoute } from "./routes/models.ts";
import { moderationsRoute } from "./routes/moderations.ts";
import { reportRoute } from "./routes/reports.ts";
import { arenaRoutes } from "./routes/arena.ts";
import { studyRoutes } from "./routes/study.ts";
import { detokenizeRoute, tokenizeRoute, tokenizerInfoRoute } from "./routes/tokens.ts";
import { addPartRoute, cancelUploadRoute, completeUploadRoute, createUploadRoute } from "./routes/uploads.ts";
import { validate } from "./validate.ts";
import { RequestError } from "../util/errors.ts";

const API_ROUTES: readonly Route[] = [
  modelsRoute,
  modelRoute,
  deleteModelRoute,
  completionsRoute,
  chatCompletionsRoute,
  embeddingsRoute,
  moderationsRoute,
  reportRoute,
  createFileRoute,
  filesRoute,
  fileRoute,
  fileContentRoute,
  deleteFileRoute,
  createUploadRoute,
  addPartRoute,
  completeUploadRoute,
  cancelUploadRoute,
  createJobRoute,
  jobsRoute,
  jobRoute,
  cancelJobRoute,
  pauseJobRoute,
  resumeJobRoute,
  jobEventsRoute,
  jobCheckpointsRoute,
  jobMetricsRoute,
  tokenizeRoute,
  detokenizeRoute,
  tokenizerInfoRoute,
  healthRoute,
  livezRoute,
  readyzRoute,
  metricsRoute,
  loglikelihoodRoute,
  rollingRoute,
  generateRoute,
  greedyUntilRoute,
  easylmChatRoute,
  easylmReadyRoute,
  ...studyRoutes,
  ...arenaRoutes,
];

export function createServer(context: ServerContext): Hono {
  const app = new Hono();
  const routes = [...API_ROUTES, ...documentRoutes(API_ROUTES, context.version)];
  for (const route of routes)
    app[route.method](route.path, (c) =>
      guard(c, context, { label: route.path, public: route.public ?? false }, (request) =>
        serve(c, context, route, request),
      ),
    );
  for (const [path, page] of Object.entries(context.pages))
    app.get(path, (c) => guard(c, context, { label: "page", public: true }, () => pageResponse(page)));
  for (const path of new Set(routes.map((route) => route.path)))
    app.all(path, (c) =>
      guard(c, context, { label: path, public: false }, () => wrongMethod(c, routes, path)),
    );
  app.notFound((c) => guard(c, context, { label: "none", public: false }, () => notFound(c)));
  return app;
}

interface GuardedRequest {
  id: string;
  keyId: string | null;
}

/** The edge around every answer, known route or not: nothing is reached without passing it, nothing thrown leaves it. */
async function guard(
  c: Context,
  context: ServerContext,
  route: { label: string; public: boolean },
  next: (request: GuardedRequest) => Response | Promise<Response>,
): Promise<Response> {
  const id = requestIdOf(c.req.raw.headers);
  let origin: string | null = null;
  let response: Response;
  try {
    checkHost(c.req.raw.headers, context);
    origin = checkOrigin(c.req.raw.headers, context);
    if (c.req.method === "OPTIONS") response = preflight(c, origin);
    else {
      const keyId = route.public ? null : authenticate(c.req.raw.headers, context);
      response = await next({ id, keyId });
    }
  } catch (error) {
    const failure = failed(error, context, { id, method: c.req.method, path: c.req.path });
    response = Response.json(failure.body, { status: failure.status, headers: failure.headers });
    if (failure.status === 401) response.headers.set("www-authenticate", "Bearer");
  }
  finishHeaders(response, { id, origin });
  context.metrics.responded(route.label, response.status);
  return response;
}

/** A declared route: its body checked, its parameters accounted for, its stay counted. */
async function serve(
  c: Context,
  context: ServerContext,
  route: Route,
  request: GuardedRequest,
): Promise<Response> {
  if (route.work && context.lifecycle.state !== "serving") return draining();
  const ignored: string[] = [];
  let body: unknown;
  if (route.request !== undefined) {
    const raw = await readJsonObject(c.req.raw, context.limits);
    const checked = validate(route.request, raw, { lenient: isLenient(c, context) });
    ignored.push(...checked.ignored);
    body = checked.value;
  }
  const stay = route.work ? context.lifecycle.enter() : null;
  let kept = false;
  const keep: Call<unknown>["keep"] = () => {
    kept = true;
    return () => stay?.leave();
  };
  const signal = stay === null ? c.req.raw.signal : AbortSignal.any([c.req.raw.signal, stay.signal]);
  try {
    const response = await route.handle(c, {
      context,
      body,
      requestId: request.id,
      keyId: request.keyId,
      signal,
      keep,
      ignored,
    });
    if (ignored.length > 0)
      response.headers.set("x-koala-ignored-parameters", ignored.map(encodeName).join(", "));
    return response;
  } finally {
    if (!kept) stay?.leave();
  }
}

/** The header decides for one request, the server's flag for the rest. */
function isLenient(c: Context, context: ServerContext): boolean {
  const asked = c.req.header("x-koala-unknown-parameters");
  if (asked === undefined) return context.unknownParameters === "lenient";
  if (asked === "ignore" || asked === "refuse") return asked === "ignore";
  throw new RequestError("The header x-koala-unknown-parameters must be ignore or refuse.", {
    param: "x-koala-unknown-parameters",
  });
}

function draining(): Response {
  const failure = unavailable("The server is shutting down and takes no new requests.", { retry: true });
  return Response.json(failure.body, { status: failure.status, headers: failure.headers });
}

function finishHeaders(response: Response, of: { id: string; origin: string | null }): void {
  response.headers.set("x-request-id", of.id);
  response.headers.set("x-content-type-options", "nosniff");
  if (of.origin === null) return;
  response.headers.set("access-control-allow-origin", of.origin);
  response.headers.set(
    "access-control-expose-headers",
    "x-request-id, x-koala-ignored-parameters, retry-after, retry-after-ms",
  );
  if (of.origin !== "*") response.headers.append("vary", "Origin");
}

/** Keys travel in headers, never in cookies: credentials are not allowed, so "*" is harmless. */
function preflight(c: Context, origin: string | null): Response {
  if (origin === null)
    return new Response(null, { status: 204, headers: { allow: "GET, POST, DELETE, OPTIONS" } });
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
      "access-control-allow-headers":
        c.req.header("access-control-request-headers") ?? "authorization, content-type",
      "access-control-max-age": "600",
    },
  });
}

function pageResponse(page: Page): Response {
  return new Response(page.body as BodyInit, { headers: page.headers });
}

function wrongMethod(c: Context, routes: readonly Route[], path: string): Response {
  const allowed = routes.filter((route) => route.path === path).map((route) => route.method.toUpperCase());
  const message = `${c.req.path.slice(0, 200)} takes ${allowed.join(" or ")}, not ${c.req.method}.`;
  const body: ErrorBody = {
    error: { message, type: "invalid_request_error", param: null, code: "method_not_allowed" },
  };
  return Response.json(body, { status: 405, headers: { allow: allowed.join(", ") } });
}

function notFound(c: Context): never {
  throw new RequestError(
    `There is no ${c.req.method} ${c.req.path.slice(0, 200)} here. GET /docs lists what there is.`,
    { status: 404, code: "not_found" },
  );
}

/** Header values are ASCII; a client's parameter name may not be. */
const encodeName = (name: string): string =>
  encodeURIComponent(name.slice(0, 200)).replaceAll("%5B", "[").replaceAll("%5D", "]");
