/** The arena's API as the page uses it. Every failure is thrown as a ProblemError. */
import type { Access } from "../client.ts";
import { cutProblem, isRecord, ProblemError, problemOfResponse, problemOfStreamError } from "../problem.ts";
import type { Choice, Report } from "../rating/client.ts";
import { readEvents } from "../sse.ts";

export interface Chunk {
  battle?: string;
  side?: "left" | "right";
  text?: string;
  finish?: string;
  ended?: true;
}

export interface Reveal {
  left: string;
  right: string;
  counted: boolean;
  leaks: string[];
}

export interface Standing {
  system: string;
  battles: number;
  wins: number;
  ties: number;
  losses: number;
  rating: number | null;
  interval: [number, number] | null;
}

export interface Leaderboard {
  systems: Standing[];
  refusal: string | null;
}

/** Ends with `ended`; a stream that stops before it is a failure. */
export async function* startBattle(
  of: { prompt: string; rater: string },
  access: Access,
): AsyncGenerator<Chunk, void> {
  const response = await request("/arena/battles", { method: "POST", body: JSON.stringify(of) }, access);
  for await (const data of readEvents(response.body!)) {
    if (data === "[DONE]") return;
    const chunk: unknown = JSON.parse(data);
    if (isRecord(chunk) && "error" in chunk) throw new ProblemError(problemOfStreamError(chunk["error"]));
    yield chunk as Chunk; // the server's own type
  }
  throw new ProblemError(cutProblem);
}

export async function voteOn(
  id: string,
  vote: { choice: Choice; dwell_ms: number },
  access: Access,
): Promise<Reveal> {
  const init = { method: "POST", body: JSON.stringify(vote) };
  return (await request(`/arena/battles/${encodeURIComponent(id)}/vote`, init, access)).json();
}

export async function report(id: string, flag: Report, access: Access): Promise<void> {
  const init = { method: "POST", body: JSON.stringify(flag) };
  await request(`/arena/battles/${encodeURIComponent(id)}/flags`, init, access);
}

export async function leaderboard(access: Access): Promise<Leaderboard> {
  return (await request("/arena/leaderboard", {}, access)).json();
}

async function request(path: string, init: RequestInit, { apiKey, signal }: Access): Promise<Response> {
  const key: Record<string, string> = apiKey === "" ? {} : { authorization: `Bearer ${apiKey}` };
  const headers = { "content-type": "application/json", ...key };
  const response = await fetch(path, { ...init, headers, signal });
  if (response.ok) return response;
  throw new ProblemError(problemOfResponse(response.status, response.headers, await response.text()));
}
