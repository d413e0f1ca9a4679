/** The panel of the system prompt and the sampling parameters. An empty field means the server's default. */
import { emptyParams, type ParamField, paramFields, type ParamForm, readParams } from "./params.ts";

export function SettingsPanel(props: {
  params: ParamForm;
  onParams: (params: ParamForm) => void;
  /** null in completion mode, which has no system prompt. */
  system: string | null;
  onSystem: (text: string) => void;
}) {
  const { params, onParams, system } = props;
  const { problems } = readParams(params);
  const set = (name: keyof ParamForm, value: string) => onParams({ ...params, [name]: value });
  return (
    <form class="settings" onSubmit={(event) => event.preventDefault()}>
      {system !== null && (
        <Labelled name="system" label="System prompt" hint="Said to the model before the chat">
          <textarea
            id="field-system"
            class="field grow"
            rows={3}
            aria-describedby="hint-system"
            value={system}
            onInput={(event) => props.onSystem(event.currentTarget.value)}
          />
        </Labelled>
      )}
      {paramFields.map((field) => (
        <NumberField
          key={field.name}
          field={field}
          value={params[field.name]}
          problem={problems[field.name]}
          onInput={set}
        />
      ))}
      <Labelled name="stop" label="Stop strings" hint="One a line, \n for a newline" problem={problems.stop}>
        <textarea
          id="field-stop"
          class="field grow mono"
          rows={2}
          spellcheck={false}
          aria-describedby="hint-stop"
          aria-invalid={problems.stop !== undefined}
          value={params.stop}
          onInput={(event) => set("stop", event.currentTarget.value)}
        />
      </Labelled>
      <button type="button" class="button" onClick={() => onParams(emptyParams)}>
        Back to the server's defaults
      </button>
    </form>
  );
}

function NumberField(props: {
  field: ParamField;
  value: string;
  problem: string | undefined;
  onInput: (name: keyof ParamForm, value: string) => void;
}) {
  const { field, value, problem } = props;
  return (
    <Labelled name={field.name} label={field.label} hint={field.hint} problem={problem}>
      <input
        id={`field-${field.name}`}
        class="field number"
        inputMode={field.step < 1 ? "decimal" : "numeric"}
        autocomplete="off"
        placeholder="default"
        aria-describedby={`hint-${field.name}`}
        aria-invalid={problem !== undefined}
        value={value}
        onInput={(event) => props.onInput(field.name, event.currentTarget.value)}
      />
    </Labelled>
  );
}

function Labelled(props: {
  name: string;
  label: string;
  hint: string;
  problem?: string | undefined;
  children: preact.ComponentChildren;
}) {
  return (
    <div class={`labelled of-${props.name}`}>
      <label for={`field-${props.name}`}>{props.label}</label>
      {props.children}
      <p id={`hint-${props.name}`} class={props.problem === undefined ? "hint" : "hint wrong"}>
        {props.problem ?? props.hint}
      </p>
    </div>
  );
}
