/** What may be said besides the verdict: other criteria, a note, and that an answer is alarming. */
import { useId, useState } from "preact/hooks";
import { problemOfThrown } from "../problem.ts";
import type { Choice, Report, StudyState } from "./client.ts";

export function Details(props: {
  criteria: StudyState["criteria"];
  chosen: Record<string, Choice>;
  onChoose: (name: string, choice: Choice) => void;
  note: string;
  onNote: (note: string) => void;
  onReport: (report: Report) => Promise<void>;
}) {
  const id = useId();
  return (
    <details class="more">
      <summary>{props.criteria.length > 0 ? "More questions, note, report" : "Note, report"}</summary>
      <div class="more-body">
        {props.criteria.map(({ name, question }) => (
          <Criterion
            key={name}
            question={question}
            chosen={props.chosen[name] ?? null}
            onChoose={(choice) => props.onChoose(name, choice)}
          />
        ))}
        <label for={id}>Note</label>
        <textarea
          id={id}
          class="field grow"
          maxLength={2000}
          value={props.note}
          onInput={(event) => props.onNote(event.currentTarget.value)}
        />
        <ReportForm onReport={props.onReport} />
      </div>
    </details>
  );
}

const short: Record<Choice, string> = { left: "A", tie: "Tie", both_bad: "Neither", right: "B" };

function Criterion(props: { question: string; chosen: Choice | null; onChoose: (choice: Choice) => void }) {
  const name = useId();
  return (
    <fieldset class="criterion">
      <legend>{props.question}</legend>
      {(Object.keys(short) as Choice[]).map((choice) => (
        <label key={choice}>
          <input
            type="radio"
            name={name}
            checked={props.chosen === choice}
            onChange={() => props.onChoose(choice)}
          />
          <span>{short[choice]}</span>
        </label>
      ))}
    </fieldset>
  );
}

const categories: [string, string][] = [
  ["harmful", "Dangerous or harmful"],
  ["hateful", "Hateful or insulting"],
  ["sexual", "Sexual"],
  ["private", "Tells private data"],
  ["false", "False and misleading"],
  ["other", "Something else"],
];

/** Reports go to the study's people at once, with the vote or without. */
export function ReportForm({ onReport }: { onReport: (report: Report) => Promise<void> }) {
  const [side, setSide] = useState<Report["side"]>("left");
  const [category, setCategory] = useState("harmful");
  const [said, setSaid] = useState("");
  const send = async () => {
    try {
      await onReport({ side, category, note: null });
      setSaid("Reported. Thank you.");
    } catch (thrown) {
      setSaid(problemOfThrown(thrown).message);
    }
  };
  return (
    <fieldset class="report">
      <legend>Report an answer</legend>
      <select
        class="field"
        aria-label="Which answer"
        value={side}
        onChange={(event) => setSide(event.currentTarget.value as Report["side"])}
      >
        <option value="left">Answer A</option>
        <option value="right">Answer B</option>
      </select>
      <select
        class="field"
        aria-label="What is wrong with it"
        value={category}
        onChange={(event) => setCategory(event.currentTarget.value)}
      >
        {categories.map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </select>
      <button type="button" class="button" onClick={() => void send()}>
        Report
      </button>
      <p class="hint" role="status">
        {said}
      </p>
    </fieldset>
  );
}
