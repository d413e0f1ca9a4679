/** The four verdicts as buttons that a thumb hits. */
import type { Choice } from "./client.ts";

export const choices: { choice: Choice; key: string; label: string }[] = [
  { choice: "left", key: "a", label: "A is better" },
  { choice: "tie", key: "t", label: "Equally good" },
  { choice: "both_bad", key: "n", label: "Both are bad" },
  { choice: "right", key: "b", label: "B is better" },
];

export function VoteBar(props: {
  /** The earlier vote, where this is a correction. */
  chosen: Choice | null;
  /** Why no vote is taken yet. */
  held: string | null;
  onVote: (choice: Choice) => void;
  onKeep?: () => void;
}) {
  const { chosen, held } = props;
  return (
    <div class="vote">
      <p class="hint" id="vote-hint">
        {held ??
          (chosen === null ? "Which answer is better?" : "You voted on this. Another choice corrects it.")}
      </p>
      {chosen !== null && props.onKeep !== undefined && (
        <button type="button" class="button" onClick={props.onKeep}>
          Keep and go on
        </button>
      )}
      <div class="verdicts" role="group" aria-label="Your verdict" aria-describedby="vote-hint">
        {choices.map(({ choice, key, label }) => (
          <button
            key={choice}
            type="button"
            class={`verdict ${choice}`}
            aria-pressed={chosen === choice}
            aria-disabled={held !== null}
            aria-keyshortcuts={key.toUpperCase()}
            onClick={() => held === null && props.onVote(choice)}
          >
            {label}
            <kbd aria-hidden="true">{key.toUpperCase()}</kbd>
          </button>
        ))}
      </div>
    </div>
  );
}
