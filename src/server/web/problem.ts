/** What went wrong with a request, as a person reads it: one sentence and what can be done about it. */

export type ProblemKind =
  | "auth" /** 401: an API key is missing or wrong. */
  | "no-template" /** the model has no chat template: only completions work. */
  | "busy" /** 429. */
  | "unavailable" /** 503: loading, draining or restarting. */
  | "request" /** 4xx: the request itself is wrong, repeating it does not help. */
  | "server" /** 5xx, or an error object inside the stream. */
  | "network" /** no answer at all. */
  | "cut"; /** the stream ended before it said that it was complete. */

export interface Problem {
  kind: ProblemKind;
  message: string;
}

export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.message);
  }
}

/** An answer with a status other than 2xx. `body` is its text, JSON or not. */
export function problemOfResponse(status: number, headers: Headers, body: string): Problem {
  const { message, code } = readError(body);
  const said = sentence(message);
  const retryAfterMs = readRetryAfter(headers);
  const wait = retryAfterMs === null ? "" : `Try again in ${seconds(retryAfterMs)}.`;
  if (status === 401)
    return {
      kind: "auth",
      message: /not known|invalid|wrong|incorrect|expired/i.test(said)
        ? said
        : "This server wants an API key.",
    };
  if (status === 429)
    return {
      kind: "busy",
      message: join("The server is busy.", said || "Too many requests are waiting.", wait),
    };
  if (status === 503)
    return {
      kind: "unavailable",
      message: join("The model is not ready.", said || "It may still be loading or restarting.", wait),
    };
  if (status === 400 && saysNoTemplate(message, code)) return { kind: "no-template", message: said };
  if (status >= 400 && status < 500)
    return {
      kind: "request",
      message: join(said || `The server refused the request with status ${status}.`, wait),
    };
  return { kind: "server", message: join(`The server failed with status ${status}.`, said, wait) };
}

/** `data: {"error": …}` in the middle of a stream. */
export function problemOfStreamError(error: unknown): Problem {
  const { message, code } = readError(JSON.stringify({ error }));
  const said = sentence(message) || "The server reported an error without a message.";
  return {
    kind: saysNoTemplate(message, code) ? "no-template" : "server",
    message: `The answer broke off. ${said}`,
  };
}

/** Whatever was thrown while a request ran. */
export function problemOfThrown(thrown: unknown): Problem {
  if (thrown instanceof ProblemError) return thrown.problem;
  if (thrown instanceof SyntaxError)
    return { kind: "server", message: "The server sent an answer that is not valid JSON." };
  return {
    kind: "network",
    message: "The server cannot be reached. Check that koala serve is still running.",
  };
}

export const cutProblem: Problem = {
  kind: "cut",
  message: "The connection ended before the answer was complete.",
};

function seconds(milliseconds: number): string {
  const count = Math.max(1, Math.ceil(milliseconds / 1000));
  return count === 1 ? "1 second" : `${count} seconds`;
}

function saysNoTemplate(message: string, code: string): boolean {
  return (
    /no_chat_template|chat_template_missing|missing_chat_template/.test(code) ||
    /(no|without a|lacks a) chat template/i.test(message)
  );
}

function readError(body: string): { message: string; code: string } {
  try {
    const parsed: unknown = JSON.parse(body);
    const error = isRecord(parsed) ? (parsed["error"] ?? parsed) : parsed;
    if (typeof error === "string") return { message: error, code: "" };
    if (!isRecord(error)) return { message: "", code: "" };
    return {
      message: typeof error["message"] === "string" ? error["message"] : "",
      code: typeof error["code"] === "string" ? error["code"] : "",
    };
  } catch {
    return { message: "", code: "" }; // a proxy's HTML page: the status says more than its text
  }
}

/** `retry-after-ms` is what OpenAI's clients look at first; `retry-after` counts seconds or names a date. */
function readRetryAfter(headers: Headers): number | null {
  const milliseconds = Number(headers.get("retry-after-ms") ?? Number.NaN);
  if (milliseconds >= 0) return milliseconds;
  const text = headers.get("retry-after");
  if (text === null || text === "") return null;
  const count = Number(text);
  if (count >= 0) return count * 1000;
  const date = Date.parse(text);
  return Number.isNaN(date) ? null : Math.max(0, date - Date.now());
}

function join(...sentences: string[]): string {
  return sentences.filter((text) => text !== "").join(" ");
}

function sentence(text: string): string {
  const trimmed = text.trim();
  return trimmed === "" || /[.!?…]$/.test(trimmed) ? trimmed : `${trimmed}.`;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
