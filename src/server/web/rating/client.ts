/** A rater's side of the study API. Every failure is thrown as a ProblemError. */
import { ProblemError, problemOfResponse } from "../problem.ts";

export type Choice = "left" | "right" | "tie" | "both_bad";

export interface StudyState {
  title: string;
  instructions: string;
  consent: string;
  criteria: { name: string; question: string }[];
  open: boolean;
  consented: boolean;
  done: number;
  total: number;
}

export interface Task {
  id: string;
  number: number;
  question: string;
  left: string;
  right: string;
  wait_ms: number;
  vote: { choice: Choice; criteria: Record<string, Choice>; note: string | null } | null;
}

export interface Progress {
  done: number;
  total: number;
}

export interface Completion {
  code: string;
  url: string | null;
  submit: { url: string; fields: Record<string, string> } | null;
}

export interface Press {
  item: string;
  choice: Choice;
  criteria: Record<string, Choice>;
  note: string | null;
  dwell_ms: number;
}

export interface Report {
  side: "left" | "right";
  category: string;
  note: string | null;
}

export function studyClient(code: string) {
  const base = `/study/${encodeURIComponent(code)}`;
  return {
    state: () => get<StudyState>(`${base}/state`),
    consent: (worker: object) => post<{ code: string }>(`${base}/consent`, { consent: true, ...worker }),
    next: () => post<{ task: Task | null; progress: Progress }>(`${base}/next`, {}),
    task: (id: string) => get<Task>(`${base}/items/${encodeURIComponent(id)}`),
    vote: (press: Press) => post<Progress>(`${base}/votes`, press),
    report: (item: string, report: Report) => post(`${base}/flags`, { item, ...report }),
    done: () => get<Completion>(`${base}/done`),
  };
}

export type StudyClient = ReturnType<typeof studyClient>;

const get = <T>(path: string): Promise<T> => request<T>(path, {});

const post = <T>(path: string, body: object): Promise<T> =>
  request<T>(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

async function request<T>(path: string, init: RequestInit): Promise<T> {
  const response = await fetch(path, init);
  // The server's own types; whoever stands between would have to know them to harm the page.
  if (response.ok) return (await response.json()) as T;
  throw new ProblemError(problemOfResponse(response.status, response.headers, await response.text()));
}

/** What Mechanical Turk and Prolific write behind the "?" of the address. */
export function workerOf(query: string): { worker: Record<string, string>; preview: boolean } {
  const given = new URLSearchParams(query);
  const names = {
    workerId: "worker_id",
    assignmentId: "assignment_id",
    turkSubmitTo: "turk_submit_to",
    PROLIFIC_PID: "prolific_pid",
  };
  const worker: Record<string, string> = {};
  for (const [from, to] of Object.entries(names)) {
    const value = given.get(from);
    if (value !== null && value !== "") worker[to] = value;
  }
  // Mechanical Turk shows the page to workers who have not taken it yet.
  return { worker, preview: worker["assignment_id"] === "ASSIGNMENT_ID_NOT_AVAILABLE" };
}
