/** A route: what it takes, what it gives, who may call it, and the function behind it.
 *  The server and /openapi.json are both made from these, so no route is undocumented and none is open by accident. */

import type { Context } from "hono";
import type { z } from "zod";
import type { ServerContext } from "./context.ts";

/** What a handler is given besides Hono's context. */
export interface Call<Body> {
  context: ServerContext;
  /** Checked against the route's schema; undefined where it has none. */
  body: Body;
  requestId: string;
  /** The API key's id, null in open mode. */
  keyId: string | null;
  /** Fires when the client has left, or the grace period of a shutdown is over. */
  signal: AbortSignal;
  /** For answers that outlive the handler: the request counts as in flight until the result is called. */
  keep: () => () => void;
  /** Parameters without effect, listed in x-koala-ignored-parameters. */
  ignored: string[];
}

export interface Route {
  method: "get" | "post" | "delete";
  /** Hono's form: /v1/models/:id{.+} */
  path: string;
  operationId: string;
  tag: string;
  summary: string;
  description?: string;
  /** Answered without a key. Everything else is denied by default. */
  public?: boolean;
  /** Refused while draining, and waited for. */
  work?: boolean;
  request?: z.ZodType;
  /** A multipart form, which the handler reads itself, as a stream. */
  form?: z.ZodType;
  /** Of the address; the handler checks it with `readQuery`. */
  query?: z.ZodObject;
  response?: z.ZodType;
  /** Of each chunk, where the request has `stream: true`. */
  chunk?: z.ZodType;
  /** Where the answer is not JSON. */
  contentType?: string;
  handle: (c: Context, call: Call<unknown>) => Response | Promise<Response>;
}

/** Ties the handler's body to the request's schema. */
export function defineRoute<S extends z.ZodType = z.ZodUndefined>(
  route: Omit<Route, "handle" | "request"> & {
    request?: S;
    handle: (c: Context, call: Call<z.output<S>>) => Response | Promise<Response>;
  },
): Route {
  return route as Route;
}
