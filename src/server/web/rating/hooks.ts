/** The study as the page knows it: where the rater is, what is shown, and the way back to earlier votes. */
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Problem, problemOfThrown } from "../problem.ts";
import {
  type Choice,
  type Completion,
  type Progress,
  type Report,
  type StudyState,
  studyClient,
  type Task,
  workerOf,
} from "./client.ts";

export interface Ballot {
  choice: Choice;
  criteria: Record<string, Choice>;
  note: string | null;
  dwell_ms: number;
}

type Phase = "loading" | "welcome" | "rating" | "done";

export function useStudy() {
  const [code, setCode] = useState(startCode);
  const client = useMemo(() => studyClient(code), [code]);
  const visitor = useMemo(() => workerOf(location.search), []);
  const [phase, setPhase] = useState<Phase>("loading");
  const [state, setState] = useState<StudyState | null>(null);
  const [task, setTask] = useState<Task | null>(null);
  const [progress, setProgress] = useState<Progress | null>(null);
  const [completion, setCompletion] = useState<Completion | null>(null);
  /** Items that were voted on in this tab, the latest last. */
  const [past, setPast] = useState<string[]>([]);
  const { problem, attempt, retry } = useAttempts();

  const loadNext = useCallback(
    async (of = client) => {
      const next = await of.next();
      setProgress(next.progress);
      setTask(next.task);
      if (next.task === null) setCompletion(await of.done());
      setPhase(next.task === null ? "done" : "rating");
    },
    [client],
  );
  useEffect(() => {
    void attempt(async () => {
      const found = await client.state();
      setState(found);
      document.title = found.title;
      if (found.consented && found.done > 0) await loadNext();
      else setPhase((now) => (now === "loading" ? "welcome" : now));
    });
    // A new code is the same rater under a name of their own: what is shown stays.
  }, []);
  const begin = () =>
    attempt(async () => {
      const { code: own } = await client.consent(visitor.worker);
      rememberCode(code, own);
      setCode(own);
      await loadNext(studyClient(own));
    });
  const vote = (ballot: Ballot) =>
    attempt(async () => {
      if (task === null) return;
      setProgress(await client.vote({ item: task.id, ...ballot }));
      setPast((ids) => [...ids.filter((id) => id !== task.id), task.id]);
      await loadNext();
    });
  const open = (id: string) => attempt(async () => setTask(await client.task(id)));
  const at = task === null ? -1 : past.indexOf(task.id);
  const before = at < 0 ? past.at(-1) : past[at - 1];
  return {
    phase,
    state,
    task,
    progress,
    completion,
    problem,
    retry,
    begin,
    vote,
    preview: visitor.preview,
    back: before === undefined ? null : () => open(before),
    keep: () => attempt(() => loadNext()),
    report: async (report: Report) => {
      if (task !== null) await client.report(task.id, report);
    },
  };
}

/** One thing at a time; what failed can be tried again. */
function useAttempts() {
  const [problem, setProblem] = useState<Problem | null>(null);
  const last = useRef<(() => Promise<void>) | null>(null);
  const busy = useRef(false);
  const attempt = useCallback(async (work: () => Promise<void>) => {
    if (busy.current) return;
    busy.current = true;
    last.current = work;
    try {
      await work();
      setProblem(null);
    } catch (thrown) {
      setProblem(problemOfThrown(thrown));
    } finally {
      busy.current = false;
    }
  }, []);
  const retry = () => void (last.current && attempt(last.current));
  return { problem, attempt, retry };
}

const storeName = (code: string): string => `koala.study.${code}`;

/** The address's code; where that is an open link that this browser has followed before, the rater's own. */
function startCode(): string {
  const code = decodeURIComponent(location.pathname.split("/").at(-1) ?? "");
  // A platform's worker is known by name; two may share a browser.
  if (Object.keys(workerOf(location.search).worker).length > 0) return code;
  try {
    return localStorage.getItem(storeName(code)) ?? code;
  } catch {
    return code; // storage is blocked: the address alone leads back
  }
}

/** The address becomes the rater's own, so that a bookmark or a reload goes on here. */
function rememberCode(code: string, own: string): void {
  if (own === code) return;
  const query = location.search;
  if (query === "") history.replaceState(null, "", `/study/${own}`);
  try {
    if (query === "") localStorage.setItem(storeName(code), own);
  } catch {
    // storage is blocked: the address alone leads back
  }
}

/** Milliseconds that the page was to be seen since `key` changed. */
export function useDwell(key: string): () => number {
  const clock = useRef({ before: 0, since: performance.now() });
  useEffect(() => {
    clock.current = { before: 0, since: performance.now() };
    const update = () => {
      const { before, since } = clock.current;
      const now = performance.now();
      // Hidden now means that it was seen until now.
      clock.current = { before: document.hidden ? before + now - since : before, since: now };
    };
    document.addEventListener("visibilitychange", update);
    return () => document.removeEventListener("visibilitychange", update);
  }, [key]);
  return () => {
    const { before, since } = clock.current;
    return Math.round(document.hidden ? before : before + performance.now() - since);
  };
}

/** Counts down; 0 when votes are taken. */
export function useWait(milliseconds: number): number {
  const [left, setLeft] = useState(milliseconds);
  useEffect(() => {
    const end = performance.now() + milliseconds;
    setLeft(milliseconds);
    if (milliseconds <= 0) return;
    const timer = setInterval(() => {
      const rest = Math.max(0, end - performance.now());
      setLeft(rest);
      if (rest === 0) clearInterval(timer);
    }, 100);
    return () => clearInterval(timer);
  }, [milliseconds]);
  return left;
}
