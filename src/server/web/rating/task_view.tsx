/** One comparison: the question, the two answers, and the vote. Nothing is chosen beforehand.
 *  Wide screens show the answers side by side, phones one at a time: by tab, or by a swipe. */
import { useEffect, useRef, useState } from "preact/hooks";
import { useMedia } from "../hooks.ts";
import { Markdown } from "../markdown.tsx";
import type { Choice, Report, StudyState, Task } from "./client.ts";
import { Details } from "./details.tsx";
import { type Ballot, useDwell, useWait } from "./hooks.ts";
import { choices, VoteBar } from "./vote_bar.tsx";

export function TaskView(props: {
  task: Task;
  criteria: StudyState["criteria"];
  onVote: (ballot: Ballot) => Promise<void>;
  onKeep: () => void;
  onBack: (() => void) | null;
  onReport: (report: Report) => Promise<void>;
}) {
  const { task } = props;
  const [criteria, setCriteria] = useState(task.vote?.criteria ?? {});
  const [note, setNote] = useState(task.vote?.note ?? "");
  const wide = useMedia("(min-width: 48rem)");
  const seen = useSeen(wide);
  const wait = useWait(task.wait_ms);
  const dwell = useDwell(task.id);
  const heading = useRef<HTMLHeadingElement>(null);
  // A reader of the screen begins at the question; a keyboard votes from there.
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);
  const held =
    wait > 0
      ? `You can vote in ${Math.ceil(wait / 1000)} s`
      : !wide && !seen.both && task.vote === null
        ? "Look at the other answer too"
        : null;
  const vote = (choice: Choice) => {
    if (held === null) void props.onVote({ choice, criteria, note: note.trim() || null, dwell_ms: dwell() });
  };
  useVoteKeys(vote, props.onBack);
  return (
    <main class="task">
      <section class="asking" aria-label="Question" tabIndex={0}>
        <h1 class="unseen" ref={heading} tabIndex={-1}>
          Question {task.number}
        </h1>
        <p class="asked">{task.question}</p>
      </section>
      {!wide && <Tabs side={seen.side} onSide={seen.show} />}
      <div class="answers" ref={seen.box}>
        <AnswerPanel name="A" text={task.left} wide={wide} />
        <AnswerPanel name="B" text={task.right} wide={wide} />
      </div>
      <footer>
        <Details
          criteria={props.criteria}
          chosen={criteria}
          onChoose={(name, choice) => setCriteria({ ...criteria, [name]: choice })}
          note={note}
          onNote={setNote}
          onReport={props.onReport}
        />
        <VoteBar chosen={task.vote?.choice ?? null} held={held} onVote={vote} onKeep={props.onKeep} />
      </footer>
    </main>
  );
}

export function AnswerPanel({ name, text, wide }: { name: string; text: string; wide: boolean }) {
  return (
    <section class="candidate" aria-label={`Answer ${name}`} tabIndex={0}>
      {wide && <h2>{name}</h2>}
      <Markdown text={text} />
    </section>
  );
}

export function Tabs({ side, onSide }: { side: number; onSide: (side: number) => void }) {
  return (
    <div class="tabs" role="group" aria-label="Shown answer">
      {["A", "B"].map((name, index) => (
        <button key={name} type="button" aria-pressed={side === index} onClick={() => onSide(index)}>
          Answer {name}
        </button>
      ))}
    </div>
  );
}

/** Which answer a phone shows, and whether both have been looked at. */
export function useSeen(wide: boolean) {
  const box = useRef<HTMLDivElement>(null);
  const [side, setSide] = useState(0);
  const [both, setBoth] = useState(false);
  useEffect(() => {
    const element = box.current;
    if (element === null || wide) return;
    const update = () => {
      const now = element.scrollLeft > element.clientWidth / 2 ? 1 : 0;
      setSide(now);
      if (now === 1) setBoth(true);
    };
    element.addEventListener("scroll", update, { passive: true });
    return () => element.removeEventListener("scroll", update);
  }, [wide]);
  const show = (wanted: number) => {
    const element = box.current;
    element?.scrollTo({ left: wanted * element.clientWidth });
  };
  return { box, side, both, show };
}

/** A, B, T, N vote and U goes back, unless something is being written. */
export function useVoteKeys(vote: (choice: Choice) => void, back: (() => void) | null): void {
  const latest = useRef({ vote, back });
  latest.current = { vote, back };
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const { target, key, ctrlKey, metaKey, altKey, repeat } = event;
      if (ctrlKey || metaKey || altKey || repeat) return;
      if (target instanceof Element && target.closest("input:not([type=radio]), textarea, select") !== null)
        return;
      const found = choices.find((one) => one.key === key.toLowerCase());
      if (found !== undefined) latest.current.vote(found.choice);
      else if (key.toLowerCase() === "u") latest.current.back?.();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}
