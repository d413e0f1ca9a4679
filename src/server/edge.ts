/** The outer edge: bytes become a checked JSON object, or one clear 4xx. Nothing behind this file sees raw input.
 *  Always: size is capped while reading, depth and member count before parsing, and no object carries `__proto__`. */

import { isIP } from "node:net";
import { RequestError } from "../util/errors.ts";
import type { ServerContext } from "./context.ts";
import type { Limits } from "./limits.ts";

/** The body as a JSON object. The content type is ignored: curl sends a form's by default. */
export async function readJsonObject(request: Request, limits: Limits): Promise<Record<string, unknown>> {
  const bytes = await readBody(request, limits.bodyBytesMax);
  const value = parseJson(bytes, limits);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const kind = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
    throw new RequestError(`The body must be a JSON object, but is ${kind}.`, { code: "invalid_body" });
  }
  return value as Record<string, unknown>;
}

/** JSON text to a value in which every number is finite. A top-level seed beyond 2^53 becomes a bigint: the one field
 *  where 64 bits are usual. Other integers of that size reach the schemas rounded, which refuse them. */
export function parseJson(
  bytes: Uint8Array,
  limits: Pick<Limits, "jsonDepthMax" | "jsonMembersMax">,
): unknown {
  if (bytes.length === 0)
    throw new RequestError("The body is empty. Send a JSON object.", { code: "invalid_body" });
  const { longNumbers } = scanJson(bytes, limits);
  const text = decode(bytes);
  let value: unknown;
  try {
    value = longNumbers ? parseWithExactSeed(text) : JSON.parse(text);
  } catch (error) {
    // The parser's message may quote the body; its position is all that helps.
    const position = /position (\d+)|line \d+ column \d+/.exec(
      error instanceof Error ? error.message : "",
    )?.[0];
    throw new RequestError(`The body is not valid JSON${position ? ` (${position})` : ""}.`, {
      code: "invalid_json",
    });
  }
  if (longNumbers || /__proto__|\\u005f|\d[eE]\+?\d{3}/i.test(text)) refuseOddities(value, "");
  return value;
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new RequestError("The body is not valid UTF-8.", { code: "invalid_json" });
  }
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** One pass over the bytes, before anything is built: JSON.parse itself takes two million levels without complaint. */
export function scanJson(
  bytes: Uint8Array,
  limits: Pick<Limits, "jsonDepthMax" | "jsonMembersMax">,
): { longNumbers: boolean } {
  let depth = 0;
  let members = 0;
  let digits = 0;
  let longNumbers = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    digits = byte >= 0x30 && byte <= 0x39 ? digits + 1 : 0;
    if (digits >= 16) longNumbers = true;
    if (byte === QUOTE) i = endOfString(bytes, i);
    else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > limits.jsonDepthMax)
        throw new RequestError(`The body is nested more than ${limits.jsonDepthMax} levels deep.`, {
          code: "invalid_json",
        });
    } else if (byte === 0x7d || byte === 0x5d) depth--;
    else if (byte === 0x3a && ++members > limits.jsonMembersMax)
      throw new RequestError(`The body has more than ${limits.jsonMembersMax} object members.`, {
        code: "invalid_json",
      });
  }
  return { longNumbers };
}

function endOfString(bytes: Uint8Array, start: number): number {
  for (let end = bytes.indexOf(QUOTE, start + 1); end >= 0; end = bytes.indexOf(QUOTE, end + 1)) {
    let slashes = 0;
    while (bytes[end - 1 - slashes] === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return end;
  }
  return bytes.length;
}

function parseWithExactSeed(text: string): unknown {
  const seeds = new Map<unknown, bigint>();
  const value: unknown = JSON.parse(text, function (
    this: unknown,
    key: string,
    item: unknown,
    context?: { source?: string },
  ) {
    const source = context?.source ?? "";
    if (
      key === "seed" &&
      typeof item === "number" &&
      !Number.isSafeInteger(item) &&
      /^-?\d{16,20}$/.test(source)
    )
      seeds.set(this, BigInt(source));
    return item;
  } as (key: string, value: unknown) => unknown);
  const exact = seeds.get(value);
  if (exact !== undefined) (value as { seed: bigint }).seed = exact;
  return value;
}

/** Numbers such as 1e999, which parse to Infinity, and members named __proto__, which change objects when copied. */
function refuseOddities(value: unknown, path: string): void {
  if (typeof value === "number" && !Number.isFinite(value))
    throw new RequestError(`${path.slice(0, 200)} is not a finite number.`, {
      param: path.slice(0, 200),
      code: "invalid_value",
    });
  if (typeof value !== "object" || value === null) return;
  if (Array.isArray(value)) return value.forEach((item, index) => refuseOddities(item, `${path}[${index}]`));
  for (const [key, item] of Object.entries(value)) {
    if (key === "__proto__")
      throw new RequestError("The body must not have a member named __proto__.", {
        param: "__proto__",
        code: "unknown_parameter",
      });
    refuseOddities(item, path === "" ? key : `${path}.${key}`);
  }
}

async function readBody(request: Request, bytesMax: number): Promise<Uint8Array> {
  const encoding = request.headers.get("content-encoding");
  if (encoding !== null && encoding !== "" && encoding !== "identity")
    throw new RequestError("Compressed request bodies are not accepted. Send the JSON as it is.", {
      status: 415,
      code: "unsupported_encoding",
    });
  if (Number(request.headers.get("content-length") ?? 0) > bytesMax) throw tooLarge(bytesMax);
  const chunks: Uint8Array[] = [];
  let length = 0;
  if (request.body === null) return new Uint8Array();
  try {
    for await (const chunk of request.body as unknown as AsyncIterable<Uint8Array>) {
      length += chunk.length;
      if (length > bytesMax) throw tooLarge(bytesMax);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof RequestError) throw error;
    // A client that left is nobody's mistake: no line in the log.
    throw new RequestError("The connection ended before the whole body had come.", {
      code: "incomplete_body",
    });
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

const tooLarge = (bytesMax: number): RequestError =>
  new RequestError(`The body is larger than ${bytesMax} bytes.`, { status: 413, code: "body_too_large" });

/** The client's request id where it is plain text of sane length, else a new one. */
export function requestIdOf(headers: Headers): string {
  const given = headers.get("x-request-id");
  return given !== null && /^[\w.:-]{1,128}$/.test(given)
    ? given
    : `req_${crypto.randomUUID().replaceAll("-", "")}`;
}

/** Against DNS rebinding: a web page can make its own name point here, but then the Host header carries that name. */
export function checkHost(
  headers: Headers,
  context: Pick<ServerContext, "allowedHosts" | "boundHost">,
): void {
  const host = headers.get("host");
  if (host === null) return;
  const name = hostName(host);
  const known =
    isLoopbackName(name) ||
    isIP(name) !== 0 ||
    name === context.boundHost.toLowerCase() ||
    context.allowedHosts.some((allowed) => allowed === "*" || allowed.toLowerCase() === name);
  if (!known)
    throw new RequestError(
      `This server does not answer to the host name ${JSON.stringify(name.slice(0, 100))}. Start it with --allowed-host ${/^[\w.-]{1,100}$/.test(name) ? name : "NAME"} if that name is yours.`,
      { status: 403, type: "permission_error", code: "host_not_allowed" },
    );
}

/** The origin that may read the answer, or null. Throws 403 for pages of other sites: simple POSTs need no preflight. */
export function checkOrigin(headers: Headers, context: Pick<ServerContext, "corsOrigins">): string | null {
  const origin = headers.get("origin");
  if (origin === null) return null;
  if (context.corsOrigins.includes("*")) return "*";
  if (context.corsOrigins.includes(origin)) return origin;
  const host = headers.get("host");
  if (host !== null && URL.canParse(origin) && new URL(origin).host === host.toLowerCase()) return null;
  throw new RequestError(
    `Web pages of ${JSON.stringify(origin.slice(0, 100))} may not use this server. Start it with --cors-origin to allow them.`,
    { status: 403, type: "permission_error", code: "origin_not_allowed" },
  );
}

function hostName(host: string): string {
  const bracketed = /^\[([^\]]*)\](?::\d+)?$/.exec(host);
  return (bracketed?.[1] ?? host.replace(/:\d+$/, "")).toLowerCase();
}

const isLoopbackName = (name: string): boolean => name === "localhost" || name.endsWith(".localhost");
