/** Every way a request can fail, as the sentence that a person reads. */
import { describe, expect, test } from "bun:test";
import {
  ProblemError,
  problemOfResponse,
  problemOfStreamError,
  problemOfThrown,
} from "../../../src/server/web/problem.ts";

const respond = (status: number, error: object | string, headers: Record<string, string> = {}) =>
  problemOfResponse(
    status,
    new Headers(headers),
    typeof error === "string" ? error : JSON.stringify({ error }),
  );

describe("problems", () => {
  test("401 asks for a key", () => {
    const problem = respond(401, { message: "No such key", code: "invalid_api_key" });
    expect(problem).toMatchObject({ kind: "auth", message: "This server wants an API key." });
    expect(respond(401, { message: "The API key is not known to this server." }).message).toBe(
      "The API key is not known to this server.",
    );
  });

  test("429 says when to try again: milliseconds before seconds before dates", () => {
    expect(respond(429, { message: "64 wait" }, { "retry-after-ms": "1500", "retry-after": "9" })).toEqual({
      kind: "busy",
      message: "The server is busy. 64 wait. Try again in 2 seconds.",
    });
    expect(respond(429, {}, { "retry-after": "1" }).message).toBe(
      "The server is busy. Too many requests are waiting. Try again in 1 second.",
    );
    const date = new Date(Date.now() + 60_000).toUTCString();
    expect(respond(429, {}, { "retry-after": date }).message).toMatch(/Try again in (5\d|60) seconds\.$/);
    expect(respond(429, {}, { "retry-after": "soon" }).message).not.toContain("Try again");
  });

  test("503 is the engine restarting or loading, and can be retried", () => {
    expect(respond(503, { message: "The engine is restarting." })).toMatchObject({
      kind: "unavailable",
      message: "The model is not ready. The engine is restarting.",
    });
  });

  test("a model without a chat template is told from other wrong requests", () => {
    expect(respond(400, { message: "x has no chat template; use /v1/completions", code: null }).kind).toBe(
      "no-template",
    );
    expect(respond(400, { message: "x", code: "no_chat_template" }).kind).toBe("no-template");
    expect(respond(400, { message: "top_p must be at most 1", code: null })).toMatchObject({
      kind: "request",
      message: "top_p must be at most 1.",
    });
  });

  test("a proxy's HTML page gives a sentence with the status", () => {
    expect(respond(502, "<html>Bad gateway</html>").message).toBe("The server failed with status 502.");
    expect(respond(413, "").message).toBe("The server refused the request with status 413.");
  });

  test("an error inside the stream", () => {
    expect(problemOfStreamError({ message: "out of pages" })).toMatchObject({
      kind: "server",
      message: "The answer broke off. out of pages.",
    });
    expect(problemOfStreamError("plain").message).toBe("The answer broke off. plain.");
    expect(problemOfStreamError(7).message).toBe(
      "The answer broke off. The server reported an error without a message.",
    );
  });

  test("what fetch throws", () => {
    expect(problemOfThrown(new TypeError("Failed to fetch")).kind).toBe("network");
    expect(problemOfThrown(new SyntaxError("bad")).message).toContain("not valid JSON");
    const problem = respond(500, {});
    expect(problemOfThrown(new ProblemError(problem))).toBe(problem);
  });
});
