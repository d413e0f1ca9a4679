/** The kinds of failure that a person reads. Each message is one complete sentence with the values and a way out. */

/** The user asked for something that cannot be done: wrong flag, wrong file, unsupported model. The CLI prints the message alone and exits with 1. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** A request was wrong: HTTP 400 (or `status`) in OpenAI's error shape; `param` names the field. */
export class RequestError extends Error {
  override name = "RequestError";
  constructor(
    message: string,
    readonly options: {
      status?: number;
      param?: string | null;
      code?: string | null;
      type?: string;
      retryAfterMs?: number;
    } = {},
  ) {
    super(message);
  }
}

/** A programmer's mistake: crash with it. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}
