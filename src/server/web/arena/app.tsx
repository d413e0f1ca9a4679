/** The arena: one prompt, two anonymous answers, a vote, and then the names. */
import { useState } from "preact/hooks";
import { ThemeButton } from "../bar.tsx";
import { useApiKey, useMedia, useSettings, useTheme } from "../hooks.ts";
import { Koala } from "../icons.tsx";
import { ProblemBox } from "../problem_box.tsx";
import { ReportForm } from "../rating/details.tsx";
import { AnswerPanel, Tabs, useSeen, useVoteKeys } from "../rating/task_view.tsx";
import { VoteBar } from "../rating/vote_bar.tsx";
import type { Leaderboard, Reveal } from "./client.ts";
import { type Battle, useBattle, useLeaderboard } from "./hooks.ts";

export function ArenaApp() {
  const [settings, change] = useSettings();
  const [apiKey, setApiKey] = useApiKey();
  const { shown, next } = useTheme(settings.theme);
  const { board, reload } = useLeaderboard(apiKey);
  const arena = useBattle(apiKey, reload);
  const { battle, problem } = arena;
  return (
    <div class="rating arena">
      <header class="bar">
        <Koala />
        <strong>Arena</strong>
        <span class="space" />
        {battle !== null && (
          <button type="button" class="button" onClick={arena.clear}>
            New round
          </button>
        )}
        <a class="button" href="/">
          Chat
        </a>
        <ThemeButton shown={shown} onSwitch={() => change({ theme: next })} />
      </header>
      {problem !== null && (
        <ProblemBox
          problem={problem}
          actions={{ onRetry: () => battle && void arena.start(battle.prompt), onApiKey: setApiKey }}
        />
      )}
      {battle === null ? (
        <main class="sheet wide">
          <Composer onSend={(prompt) => void arena.start(prompt)} />
          {board !== null && <Standings board={board} />}
        </main>
      ) : (
        <BattleView battle={battle} onVote={(choice) => void arena.vote(choice)} onReport={arena.flag} />
      )}
    </div>
  );
}

function Composer({ onSend }: { onSend: (prompt: string) => void }) {
  const [prompt, setPrompt] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (prompt.trim() !== "") onSend(prompt.trim());
  };
  return (
    <form class="ask" onSubmit={submit}>
      <h1>Two models, one question</h1>
      <p>
        Ask anything. Two models answer without their names; after your vote you learn who they are. Prompts,
        answers and votes are stored.
      </p>
      <textarea
        class="field grow"
        aria-label="Your question"
        placeholder="Ask both"
        rows={3}
        maxLength={12000}
        value={prompt}
        onInput={(event) => setPrompt(event.currentTarget.value)}
        onKeyDown={(event) => {
          // On touch keyboards Enter is how a line ends.
          if (event.key === "Enter" && !event.shiftKey && matchMedia("(pointer: fine)").matches)
            submit(event);
        }}
      />
      <button class="button primary large" disabled={prompt.trim() === ""}>
        Ask both
      </button>
    </form>
  );
}

function BattleView(props: {
  battle: Battle;
  onVote: Parameters<typeof VoteBar>[0]["onVote"];
  onReport: Parameters<typeof ReportForm>[0]["onReport"];
}) {
  const { battle } = props;
  const wide = useMedia("(min-width: 48rem)");
  const seen = useSeen(wide);
  const held = !battle.ended
    ? "Votes are taken when both answers have ended"
    : !wide && !seen.both
      ? "Look at the other answer too"
      : null;
  const vote: typeof props.onVote = (choice) => {
    if (held === null) props.onVote(choice);
  };
  useVoteKeys(vote, null);
  const named = (side: "left" | "right", letter: string) =>
    battle.reveal === null ? letter : `${letter}: ${battle.reveal[side]}`;
  return (
    <main class="task">
      <section class="asking" aria-label="Question" tabIndex={0}>
        <p class="asked">{battle.prompt}</p>
      </section>
      {!wide && <Tabs side={seen.side} onSide={seen.show} />}
      <div class="answers" ref={seen.box} aria-busy={!battle.ended}>
        <AnswerPanel name={named("left", "A")} text={textOf(battle, "left")} wide={wide} />
        <AnswerPanel name={named("right", "B")} text={textOf(battle, "right")} wide={wide} />
      </div>
      <footer>
        {battle.reveal !== null && <Names reveal={battle.reveal} />}
        {battle.choice === null && <VoteBar chosen={null} held={held} onVote={vote} />}
        {battle.ended && (
          <details class="more">
            <summary>Report</summary>
            <div class="more-body">
              <ReportForm onReport={props.onReport} />
            </div>
          </details>
        )}
        <p class="unseen" role="status">
          {battle.ended && battle.reveal === null ? "Both answers have ended." : ""}
        </p>
      </footer>
    </main>
  );
}

function textOf(battle: Battle, side: "left" | "right"): string {
  const text = battle[side];
  if (battle.finish[side] === "error") return `${text}\n\n*(This answer failed.)*`;
  return text === "" && !battle.ended ? "…" : text;
}

function Names({ reveal }: { reveal: Reveal }) {
  return (
    <p class="names" role="status">
      A was <strong>{reveal.left}</strong>, B was <strong>{reveal.right}</strong>.
      {!reveal.counted && (
        <span>
          {" "}
          {reveal.leaks.length > 0
            ? `The vote is kept apart: an answer told who wrote it (${reveal.leaks.join(", ")}).`
            : "The vote is kept apart: an answer failed."}
        </span>
      )}
    </p>
  );
}

const rounded = (value: number): string => value.toFixed(0);

function Standings({ board }: { board: Leaderboard }) {
  if (board.systems.length === 0) return <p class="hint">{board.refusal}</p>;
  return (
    <section aria-label="Standings">
      <h2>Standings</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of standings">
        <table>
          <thead>
            <tr>
              <th scope="col">Model</th>
              <th scope="col">Rating</th>
              <th scope="col">95 %</th>
              <th scope="col">Votes</th>
              <th scope="col">Won</th>
              <th scope="col">Tied</th>
              <th scope="col">Lost</th>
            </tr>
          </thead>
          <tbody>
            {board.systems.map((row) => (
              <tr key={row.system}>
                <th scope="row">{row.system}</th>
                <td>{row.rating === null ? "–" : rounded(row.rating)}</td>
                <td>{row.interval === null ? "–" : row.interval.map(rounded).join(" to ")}</td>
                <td>{row.battles}</td>
                <td>{row.wins}</td>
                <td>{row.ties}</td>
                <td>{row.losses}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {board.refusal !== null && <p class="hint">{board.refusal}</p>}
    </section>
  );
}
