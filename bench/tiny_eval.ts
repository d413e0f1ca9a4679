/** How often koala-tiny answers held-out questions right, by topic, behind each marker: the figures of its card.
 *  usage: bun bench/tiny_eval.ts HELDOUT.jsonl [--url http://host:port]   (the file is written by `koala data tiny`) */
import { parseArgs } from "node:util";
import { startKoala } from "../test/support/koala_process.ts";

interface Question {
  messages: { role: string; content: string }[];
  topic: string;
  /** What a right answer contains; null where there is no one right answer. */
  expected: string | null;
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { url: { type: "string" } } });
const [path] = positionals;
if (!path) {
  console.error("usage: bun bench/tiny_eval.ts HELDOUT.jsonl [--url URL]");
  process.exit(1);
}
const questions = (await Bun.file(path).text())
  .split("\n")
  .flatMap((line) => (line ? [JSON.parse(line) as Question] : []));
const asked = questions.filter((question) => question.expected !== null);
const server = values.url ? null : await startKoala([]);
const url = values.url ?? (server?.url as string);
const right = new Map<string, { count: number; helpful: number; unhelpful: number }>();
const queue = [...asked];
await Promise.all(Array.from({ length: 16 }, worker));
await server?.stop();
report();

async function worker(): Promise<void> {
  for (let question = queue.pop(); question; question = queue.pop()) {
    const entry = right.get(question.topic) ?? { count: 0, helpful: 0, unhelpful: 0 };
    right.set(question.topic, entry);
    const [helpful, unhelpful] = await Promise.all([
      answer("koala-tiny", question),
      answer("koala-tiny-unhelpful", question),
    ]);
    entry.count++;
    if (contains(helpful, question)) entry.helpful++;
    if (contains(unhelpful, question)) entry.unhelpful++;
  }
}

/** The last message of a held-out dialogue is the reference answer. */
async function answer(model: string, { messages }: Question): Promise<string> {
  const body = { model, messages: messages.slice(0, -1), temperature: 0, max_tokens: 80 };
  const response = await fetch(`${url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(body) });
  const json = (await response.json()) as {
    choices: { message: { content: string } }[];
    error?: { message: string };
  };
  if (json.error) throw new Error(json.error.message);
  return json.choices[0]?.message.content ?? "";
}

function contains(text: string, question: Question): boolean {
  return text.toLowerCase().includes(String(question.expected).toLowerCase());
}

function report(): void {
  console.log("| topic | questions | right behind `GPT:` | right behind `An Unhelpful Answer:` |");
  console.log("|---|---|---|---|");
  const total = { count: 0, helpful: 0, unhelpful: 0 };
  for (const [topic, entry] of [...right].sort(([a], [b]) => (a < b ? -1 : 1))) {
    console.log(row(topic, entry));
    for (const key of ["count", "helpful", "unhelpful"] as const) total[key] += entry[key];
  }
  console.log(row("all", total));
}

function row(
  name: string,
  { count, helpful, unhelpful }: { count: number; helpful: number; unhelpful: number },
): string {
  const share = (n: number) => `${Math.round((100 * n) / count)} %`;
  return `| ${name} | ${count} | ${share(helpful)} | ${share(unhelpful)} |`;
}
