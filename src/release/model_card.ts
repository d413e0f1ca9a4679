/** A model card in Markdown, as the Hugging Face hub shows it: what the model is, what it was trained on, how it was measured,
 *  and the hashes by which anyone can check that they hold it. Only what is known is written; nothing is guessed. */

export interface CardInput {
  name: string;
  licence: string | null;
  /** Hub name or words. */
  base: string | null;
  /** koala.json of a model that was trained here. */
  record: { [key: string]: unknown } | null;
  composition: readonly CompositionRow[] | null;
  evaluation: readonly EvaluationRow[] | null;
  files: readonly { name: string; bytes: number; sha256: string }[];
  /** Of a diff: the folder holds no weights. */
  isDiff: boolean;
  /** Words of the author, put in front. */
  about: string | null;
}

export interface CompositionRow {
  source: string;
  examples: number;
  tokens: number;
  trainedTokens: number;
  /** Of the examples, from 0 to 1. */
  negativeShare: number;
  licence: string | null;
}

/** Shares of 1; the first system of the pair is this model or one like it. */
export interface EvaluationRow {
  pair: string;
  set: string;
  prompts: number;
  votes: number;
  win: number;
  tie: number;
  loss: number;
  score: number;
  interval: readonly [number, number] | null;
}

export function modelCard(input: CardInput): string {
  const sections = [
    frontMatter(input),
    `# ${input.name}\n`,
    input.about === null ? "" : `${input.about.trim()}\n`,
    input.isDiff ? diffSection(input) : "",
    trainingSection(input.record),
    compositionSection(input.composition),
    evaluationSection(input.evaluation),
    promptSection(input.record),
    filesSection(input.files),
    recipeSection(input.record),
  ];
  return sections.filter((section) => section !== "").join("\n");
}

function frontMatter({ licence, base, record }: CardInput): string {
  const lines = ["---", `license: ${licence === null ? "other" : yaml(licence)}`];
  if (base !== null && /^[\w.-]+\/[\w.-]+$/.test(base)) lines.push(`base_model: ${yaml(base)}`);
  lines.push("pipeline_tag: text-generation", "library_name: koala", "tags:", "  - koala");
  if (record) lines.push(`  - ${yaml(String(record["method"] ?? "sft").replaceAll(" ", "-"))}`);
  return [...lines, "---", ""].join("\n");
}

const yaml = (text: string): string => (/^[A-Za-z0-9][\w./-]*$/.test(text) ? text : JSON.stringify(text));

function diffSection({ base }: CardInput): string {
  return [
    "## How to get the weights\n",
    `This is a bit-exact difference to ${base ?? "its base"}, not a model. With the base at hand:\n`,
    "```sh\nkoala diff apply --base BASE --diff THIS --out MODEL\n```\n",
    "A wrong base is refused before anything is written, and every file that comes out is compared with its hash.\n",
  ].join("\n");
}

function trainingSection(record: CardInput["record"]): string {
  if (record === null) return "";
  const recipe = (record["recipe"] ?? {}) as { [key: string]: unknown };
  const schedule = (recipe["schedule"] ?? {}) as { [key: string]: unknown };
  const rows: [string, unknown][] = [
    ["method", record["method"]],
    ["base", record["base"]],
    ["optimizer steps", count(record["steps"])],
    ["trained tokens", count(record["trainedTokens"])],
    ["peak learning rate", schedule["learning_rate"]],
    ["schedule", schedule["type"]],
    ["sequence length", count(recipe["sequence_length"])],
    ["rows a step", count(recipe["rows_per_step"])],
    ["precision", recipe["precision"]],
    ["seed", recipe["seed"]],
    ["dataset (hash)", code(record["dataset"])],
    ["tokenizer (hash)", code(record["tokenizer"])],
    ["trained by", record["koala"] === undefined ? undefined : `Koala ${String(record["koala"])}`],
  ];
  const known = rows.filter(([, value]) => value !== undefined && value !== null);
  return `## Training\n\n${table(
    ["", ""],
    known.map(([name, value]) => [name, String(value)]),
  )}`;
}

function compositionSection(rows: CardInput["composition"]): string {
  if (rows === null || rows.length === 0) return "";
  const sum = (of: (row: CompositionRow) => number): number =>
    rows.reduce((total, row) => total + of(row), 0);
  const examples = sum((row) => row.examples);
  const body = rows.map((row) => [
    row.source,
    count(row.examples)!,
    count(row.tokens)!,
    count(row.trainedTokens)!,
    percent(row.negativeShare),
    row.licence ?? "not stated",
  ]);
  const negative = examples === 0 ? 0 : sum((row) => row.negativeShare * row.examples) / examples;
  body.push([
    "all",
    count(examples)!,
    count(sum((row) => row.tokens))!,
    count(sum((row) => row.trainedTokens))!,
    percent(negative),
    "",
  ]);
  return `## Data\n\n${table(["source", "examples", "tokens", "trained tokens", "negative", "licence"], body)}`;
}

function evaluationSection(rows: CardInput["evaluation"]): string {
  if (rows === null || rows.length === 0) return "";
  const body = rows.map((row) => [
    row.pair,
    row.set,
    count(row.prompts)!,
    count(row.votes)!,
    percent(row.win),
    percent(row.tie),
    percent(row.loss),
    `${percent(row.score)}${row.interval ? ` (${percent(row.interval[0])} to ${percent(row.interval[1])})` : ""}`,
  ]);
  const note =
    "Score is wins plus half the ties of the first system; intervals are 95 %, by bootstrap over prompts.\n";
  return `## Blind comparison\n\n${table(["pair", "set", "prompts", "votes", "win", "tie", "loss", "score"], body)}\n${note}`;
}

function promptSection(record: CardInput["record"]): string {
  const template = record?.["chatTemplate"];
  if (typeof template !== "string") return "";
  const koala = template.startsWith("koala");
  const text = koala
    ? "It was trained in the Koala format: `BEGINNING OF CONVERSATION: USER: … GPT:` and, behind the negative marker, `An Unhelpful Answer:`. The answer's tokens follow the marker as a text of their own."
    : `It was trained with the chat template ${template}.`;
  return `## Prompt format\n\n${text} Koala serves it with the template and tokenizer that it was trained with, or refuses.\n`;
}

function filesSection(files: CardInput["files"]): string {
  if (files.length === 0) return "";
  return `## Files\n\n${table(
    ["file", "bytes", "sha256"],
    files.map(({ name, bytes, sha256 }) => [name, count(bytes)!, code(sha256)!]),
  )}`;
}

function recipeSection(record: CardInput["record"]): string {
  if (!record?.["recipe"]) return "";
  return `## Recipe\n\nThe resolved recipe, every default filled in:\n\n\`\`\`json\n${JSON.stringify(record["recipe"], null, 2)}\n\`\`\`\n`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|").replaceAll("\n", " ")).join(" | ")} |`;
  return `${[line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n")}\n`;
}

/** 2469160 -> 2,469,160 */
const count = (value: unknown): string | undefined =>
  typeof value === "number" ? value.toLocaleString("en-US") : undefined;
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const code = (value: unknown): string | undefined => (typeof value === "string" ? `\`${value}\`` : undefined);
