/** The fine-tuning API as the page uses it. Every failure is thrown as a ProblemError. */
import { isRecord, ProblemError, problemOfResponse } from "../problem.ts";
import type { Access } from "../client.ts";

export interface Job {
  id: string;
  status: string;
  model: string;
  fine_tuned_model: string | null;
  created_at: number;
  finished_at: number | null;
  estimated_finish: number | null;
  step: number;
  total_steps: number | null;
  trained_tokens: number | null;
  seed: number;
  user_provided_suffix: string | null;
  method: { type: string };
  hyperparameters: Record<string, unknown>;
  result_files: string[];
  error: { message: string } | null;
}

/** A step's figures; null where they were not measured. */
export type Metrics = Record<string, number | null> & { step: number };

export interface JobEvent {
  id: string;
  created_at: number;
  level: string;
  type: string;
  message: string;
  data: Record<string, unknown>;
}

export interface Checkpoint {
  id: string;
  step_number: number;
  fine_tuned_model_checkpoint: string;
  metrics: Record<string, number>;
}

const jobsPath = "/v1/fine_tuning/jobs";
const jobPath = (id: string): string => `${jobsPath}/${encodeURIComponent(id)}`;

export const listJobs = (access: Access): Promise<Job[]> => list<Job>(`${jobsPath}?limit=100`, access);

export const listMetrics = (id: string, afterStep: number, access: Access): Promise<Metrics[]> =>
  list<Metrics>(`${jobPath(id)}/metrics?after_step=${afterStep}&points=1000`, access);

export const listEvents = (id: string, access: Access): Promise<JobEvent[]> =>
  list<JobEvent>(`${jobPath(id)}/events?limit=200`, access);

export const listCheckpoints = (id: string, access: Access): Promise<Checkpoint[]> =>
  list<Checkpoint>(`${jobPath(id)}/checkpoints?limit=100`, access);

export async function changeJob(
  id: string,
  change: "pause" | "resume" | "cancel",
  access: Access,
): Promise<void> {
  await request(`${jobPath(id)}/${change}`, { method: "POST" }, access);
}

export async function download(fileId: string, access: Access): Promise<Blob> {
  return (await request(`/v1/files/${encodeURIComponent(fileId)}/content`, {}, access)).blob();
}

async function list<T>(path: string, access: Access): Promise<T[]> {
  const json: unknown = await (await request(path, {}, access)).json();
  // The server's own types; whoever stands between would have to know them to harm the page.
  return isRecord(json) && Array.isArray(json["data"]) ? (json["data"] as T[]) : [];
}

async function request(path: string, init: RequestInit, { apiKey, signal }: Access): Promise<Response> {
  const headers: Record<string, string> = apiKey === "" ? {} : { authorization: `Bearer ${apiKey}` };
  const response = await fetch(path, { ...init, headers, signal });
  if (response.ok) return response;
  throw new ProblemError(problemOfResponse(response.status, response.headers, await response.text()));
}
