/** The sampling parameters as they stand in the form (text, so that "not set" is different from 0) and as the API takes them. */

export interface ParamForm {
  temperature: string;
  top_p: string;
  top_k: string;
  max_tokens: string;
  seed: string;
  /** One stop string a line; `\n` and `\t` in a line mean a newline and a tab. */
  stop: string;
}

export const emptyParams: ParamForm = {
  temperature: "",
  top_p: "",
  top_k: "",
  max_tokens: "",
  seed: "",
  stop: "",
};

export interface ParamField {
  name: Exclude<keyof ParamForm, "stop">;
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
}

/** Limits are OpenAI's where it has some; the server checks again with its own. */
export const paramFields: ParamField[] = [
  {
    name: "temperature",
    label: "Temperature",
    hint: "0 is always the likeliest token, higher is freer",
    min: 0,
    max: 2,
    step: 0.1,
  },
  {
    name: "top_p",
    label: "Top p",
    hint: "Keep the likeliest tokens up to this probability",
    min: 0,
    max: 1,
    step: 0.05,
  },
  {
    name: "top_k",
    label: "Top k",
    hint: "Keep this many tokens, 0 keeps all",
    min: 0,
    max: 1_000_000,
    step: 1,
  },
  { name: "max_tokens", label: "Max tokens", hint: "Longest answer", min: 1, max: 10_000_000, step: 1 },
  { name: "seed", label: "Seed", hint: "Same seed, same answer", min: 0, max: 4_294_967_295, step: 1 },
];

export type ParamBody = Partial<Record<ParamField["name"], number>> & { stop?: string[] };

/** What to send, or for each wrong field a sentence. Empty fields are left to the server's defaults. */
export function readParams(form: ParamForm): {
  body: ParamBody;
  problems: Partial<Record<keyof ParamForm, string>>;
} {
  const body: ParamBody = {};
  const problems: Partial<Record<keyof ParamForm, string>> = {};
  for (const field of paramFields) {
    const text = form[field.name].trim();
    if (text === "") continue;
    const value = Number(text.replace(",", "."));
    const whole = field.step < 1 || Number.isInteger(value);
    if (Number.isFinite(value) && whole && value >= field.min && value <= field.max) body[field.name] = value;
    else
      problems[field.name] =
        `${field.label} is ${text}, but must be a ${field.step < 1 ? "" : "whole "}number from ${field.min} to ${field.max}.`;
  }
  const stop = form.stop
    .split("\n")
    .filter((line) => line !== "")
    .map((line) =>
      line.replace(/\\([nt\\])/g, (_, letter: string) =>
        letter === "n" ? "\n" : letter === "t" ? "\t" : "\\",
      ),
    );
  if (stop.length > 4) problems.stop = `There are ${stop.length} stop strings, but the API takes at most 4.`;
  else if (stop.length > 0) body.stop = stop;
  return { body, problems };
}
