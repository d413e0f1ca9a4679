/** What the page says about safety: the limits of every answer, the notice where one is withheld, and the form that reports one. */
import { useId, useState } from "preact/hooks";
import { sendReport } from "./client.ts";
import { FlagIcon } from "./icons.tsx";
import { problemOfThrown } from "./problem.ts";
import type { Answer } from "./state.ts";

/** As the Koala post told its visitors; always in sight, the rest on demand. */
export function Limits() {
  return (
    <details class="limits hint">
      <summary>A research preview: answers can be wrong, biased or offensive.</summary>
      <ul>
        <li>
          The model makes things up and sounds sure of them. Check what matters; it is no advice on health,
          law or money.
        </li>
        <li>It repeats stereotypes of what it was trained on, and often lacks common sense.</li>
        <li>
          Models and data from elsewhere carry their own terms: many allow research only and no commercial
          use. See the model's card.
        </li>
        <li>Do not enter what must stay private: whoever runs this server can read it.</li>
        {takesReports() && <li>Please report answers that alarm you, with the flag below them.</li>}
      </ul>
    </details>
  );
}

/** Inline, where text is missing. */
export function Withheld({ answer }: { answer: Answer }) {
  if (answer.finishReason !== "content_filter") return null;
  return (
    <p class="withheld" role="note">
      {answer.content === ""
        ? "This answer is withheld: the server's moderation flagged the conversation, or what was about to be said."
        : "The rest of this answer is withheld: the server's moderation flagged what was about to be said."}
    </p>
  );
}

const takesReports = (): boolean =>
  document.querySelector('meta[name="koala-reports"][content="1"]') !== null;

const categories: [string, string][] = [
  ["harmful", "Dangerous or harmful"],
  ["hateful", "Hateful or insulting"],
  ["sexual", "Sexual"],
  ["private", "Tells private data"],
  ["false", "False and misleading"],
  ["other", "Something else"],
];

/** The button below an answer, where the server stores reports. */
export function ReportButton(props: { open: boolean; onToggle: () => void }) {
  if (!takesReports()) return null;
  return (
    <button
      type="button"
      class="quiet"
      title="Report this answer"
      aria-label="Report this answer"
      aria-expanded={props.open}
      onClick={props.onToggle}
    >
      <FlagIcon />
    </button>
  );
}

export function ReportForm(props: { answer: Answer; question: string; apiKey: string; onClose: () => void }) {
  const id = useId();
  const [category, setCategory] = useState("harmful");
  const [note, setNote] = useState("");
  const [state, setState] = useState<{ sending: boolean; sent: boolean; wrong: string }>(untold);
  const send = async (event: Event) => {
    event.preventDefault();
    setState({ ...untold, sending: true });
    const { content, model = null } = props.answer;
    try {
      const report = { model, prompt: props.question, answer: content, category, note: note.trim() || null };
      await sendReport(report, props.apiKey);
      setState({ ...untold, sent: true });
    } catch (thrown) {
      setState({ ...untold, wrong: problemOfThrown(thrown).message });
    }
  };
  if (state.sent)
    return (
      <p class="hint" role="status">
        Reported. Thank you.
      </p>
    );
  return (
    <form class="reporting" onSubmit={send} aria-label="Report this answer">
      <label for={`${id}c`}>What is wrong with it?</label>
      <select
        id={`${id}c`}
        class="field"
        value={category}
        onChange={(e) => setCategory(e.currentTarget.value)}
      >
        {categories.map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </select>
      <label for={`${id}n`}>Note (optional)</label>
      <textarea
        id={`${id}n`}
        class="field grow"
        maxLength={2000}
        value={note}
        onInput={(event) => setNote(event.currentTarget.value)}
      />
      <div class="row end">
        <span class="hint">Your question and this answer are stored with the report.</span>
        <button type="button" class="button" onClick={props.onClose}>
          Cancel
        </button>
        <button class="button primary" disabled={state.sending}>
          Send report
        </button>
      </div>
      <p class="wrong" role="status">
        {state.wrong}
      </p>
    </form>
  );
}

const untold = { sending: false, sent: false, wrong: "" };
