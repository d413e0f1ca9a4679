/** A battle as the page knows it, from the prompt to the names behind the answers, and the standings. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { newId } from "../hooks.ts";
import { type Problem, problemOfThrown } from "../problem.ts";
import type { Choice, Report } from "../rating/client.ts";
import {
  type Chunk,
  leaderboard,
  type Leaderboard,
  type Reveal,
  report,
  startBattle,
  voteOn,
} from "./client.ts";

export interface Battle {
  id: string;
  prompt: string;
  left: string;
  right: string;
  finish: { left?: string; right?: string };
  ended: boolean;
  choice: Choice | null;
  reveal: Reveal | null;
}

export function useBattle(apiKey: string, onVoted: () => void) {
  const [battle, setBattle] = useState<Battle | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const controller = useRef<AbortController | null>(null);
  const endedAt = useRef(0);
  useEffect(() => () => controller.current?.abort(), []);
  const start = async (prompt: string) => {
    controller.current?.abort();
    const current = (controller.current = new AbortController());
    const empty = { id: "", prompt, left: "", right: "", finish: {} };
    setBattle({ ...empty, ended: false, choice: null, reveal: null });
    setProblem(null);
    try {
      const access = { apiKey, signal: current.signal };
      for await (const chunk of startBattle({ prompt, rater: visitor() }, access))
        setBattle((old) => old && withChunk(old, chunk));
      endedAt.current = performance.now();
    } catch (thrown) {
      if (!current.signal.aborted) setProblem(problemOfThrown(thrown));
    }
  };
  const vote = async (choice: Choice) => {
    if (battle === null || !battle.ended || battle.choice !== null) return;
    setBattle({ ...battle, choice });
    try {
      const dwell_ms = Math.round(performance.now() - endedAt.current);
      const access = { apiKey, signal: new AbortController().signal };
      const reveal = await voteOn(battle.id, { choice, dwell_ms }, access);
      setBattle({ ...battle, choice, reveal });
      onVoted();
    } catch (thrown) {
      setBattle(battle);
      setProblem(problemOfThrown(thrown));
    }
  };
  const flag = async (given: Report) => {
    if (battle !== null) await report(battle.id, given, { apiKey, signal: new AbortController().signal });
  };
  const clear = () => {
    controller.current?.abort();
    setBattle(null);
    setProblem(null);
  };
  return { battle, problem, start, vote, flag, clear };
}

function withChunk(battle: Battle, { battle: id, side, text, finish, ended }: Chunk): Battle {
  if (id !== undefined) return { ...battle, id };
  if (ended) return { ...battle, ended };
  if (side === undefined) return battle;
  if (text !== undefined) return { ...battle, [side]: battle[side] + text };
  return { ...battle, finish: { ...battle.finish, [side]: finish ?? "stop" } };
}

export function useLeaderboard(apiKey: string) {
  const [board, setBoard] = useState<Leaderboard | null>(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    leaderboard({ apiKey, signal: controller.signal })
      .then(setBoard)
      .catch(() => {}); // a battle tells what is wrong
    return () => controller.abort();
  }, [apiKey, round]);
  return { board, reload: useCallback(() => setRound((count) => count + 1), []) };
}

/** A random name for this browser: votes of one visitor can be told apart, and nothing else. */
function visitor(): string {
  const name = "koala.arena.rater";
  try {
    const known = localStorage.getItem(name);
    if (known !== null) return known;
    const made = newId();
    localStorage.setItem(name, made);
    return made;
  } catch {
    return newId();
  }
}
