/** A study without models of its own: answers from a file and from an endpoint, people's votes, and a judge. */
import { afterAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { selfCommand } from "../../src/util/self_command.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("study-stages");
const out = join(folder, "out");
let failures = 0;
let asked = 0;

/** Answers questions with their number, and judges for answers that hold a digit. */
const endpoint = Bun.serve({
  port: 0,
  async fetch(request) {
    if (request.headers.get("authorization") !== "Bearer secret") return new Response("no", { status: 401 });
    if (new URL(request.url).pathname === "/v1/models") return Response.json({ data: [{ id: "oracle" }] });
    const { messages, model, max_tokens: tokens } = (await request.json()) as any; // any: as a server would read it
    const last: string = messages.at(-1).content;
    const isJudge = messages[0].role === "system";
    if (!isJudge) asked++;
    if (!isJudge && ++failures === 4)
      return Response.json({ error: { message: "overloaded" } }, { status: 503 });
    const first = last.slice(last.indexOf("<answer-A"), last.indexOf("</answer-A"));
    const verdict = /number \d/.test(first) ? "[[A]]" : "[[B]]";
    const content = isJudge
      ? `Reasons. ${verdict}`
      : `${model} says number ${last.match(/\d+/)![0]} in ${tokens}`;
    const chunk = { choices: [{ index: 0, delta: { content }, finish_reason: "stop" }] };
    return new Response(`data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`, {
      headers: { "content-type": "text/event-stream" },
    });
  },
});
afterAll(() => endpoint.stop(true));

async function koala(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const child = Bun.spawn(selfCommand("study", ...args), {
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, STUDY_KEY: "secret" },
  });
  const [text, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out: text, err };
}

const server = `{ url = "http://127.0.0.1:${endpoint.port}/v1", api_key_env = "STUDY_KEY" }`;
const recipe = join(folder, "study.toml");
writeFileSync(
  recipe,
  `title = "Files and servers"
report = { bootstrap = 200 }
decoding = { max_tokens = 9 }
questions = [{ path = "questions.jsonl", set = "own", sample = 10 }]
systems = [
  { id = "file", answers = "answers.jsonl" },
  { id = "server", label = "A server", endpoint = ${server} },
]
pairs = [{ a = "server", b = "file" }]
comparison = { ratings = 1, raters = 1, gold_share = 0, repeat_share = 0, min_dwell_ms = 0, votes_per_minute = 1000, median_dwell_ms_min = 0 }
judge = ${server.replace(" }", ", concurrency = 2 }")}
`,
);
const rows = Array.from({ length: 20 }, (_, i) => i);
const jsonl = (values: object[]): string => values.map((value) => JSON.stringify(value)).join("\n");
writeFileSync(
  join(folder, "questions.jsonl"),
  jsonl(rows.map((i) => ({ id: i, question: `What is ${i}?` }))),
);
// One by its id, one by its words, the others with set and id.
writeFileSync(
  join(folder, "answers.jsonl"),
  jsonl(
    rows.map((i) =>
      i === 0
        ? { id: 0, text: "zero" }
        : i % 2
          ? { question: `What is ${i}?`, answer: "odd" }
          : { id: `own/${i}`, output: "even" },
    ),
  ),
);

const answers = (system: string): any[] =>
  // any: read as another program would
  readFileSync(join(out, "answers", `${system}.jsonl`), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

test("an endpoint that fails stops the study in one sentence; what it had answered is not asked again", async () => {
  const first = await koala(recipe, "--out", out);
  expect([first.code, first.err.trim().split("\n").at(-1)]).toEqual([1, "koala: overloaded"]);
  const second = await koala("answer", out);
  expect(second.code).toBe(0);
  // Ten answers and the one failure; requests that were under way with it may be asked once more.
  expect(asked).toBeGreaterThanOrEqual(11);
  expect(asked).toBeLessThanOrEqual(10 + 8);
  expect(
    answers("server").every(({ text, question }) => text === `oracle says number ${question.slice(4)} in 9`),
  ).toBe(true);
  expect(answers("file").map(({ question, text }) => [Number(question.slice(4)) % 2, text])).toEqual(
    answers("file").map(({ question }) => {
      const i = Number(question.slice(4));
      return [i % 2, i === 0 ? "zero" : i % 2 ? "odd" : "even"];
    }),
  );
  expect(second.out).toMatch(/^system +answers +mean length/);
});

test("the judge's report does not wait for people, and people's votes make it new", async () => {
  const judged = await koala(recipe, "--out", out);
  expect(judged.err.split("\n").filter((line) => line.startsWith("koala:"))).toEqual([]);
  expect(judged.out).toContain("10 votes are missing: koala study serve");
  const results = () => JSON.parse(readFileSync(join(out, "report", "results.json"), "utf8"));
  expect(results().judges[0].quality).toMatchObject({ judge: "oracle" });
  expect(results().judges[0].headline[0].rate.score).toBe(1);

  const serving = Bun.spawn(selfCommand("study", "serve", out, "--port", "0"), {
    stdout: "pipe",
    stderr: "ignore",
  });
  const { value } = await serving.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  const url = /http:\/\/[\d.:]+/.exec(value!)![0];
  const link = (await koala("invite", out, "--raters", "1", "--url", url)).out.trim();
  const post = async (what: string, body: object): Promise<any> =>
    // any: read as a client would
    (await fetch(`${link}/${what}`, { method: "POST", body: JSON.stringify(body) })).json();
  await post("consent", { consent: true });
  for (let i = 0; i < 10; i++) {
    const { task } = await post("next", {});
    await post("votes", { item: task.id, choice: task.left.includes("oracle") ? "right" : "left" });
  }
  serving.kill("SIGTERM");
  await serving.exited;
  const again = await koala(recipe, "--out", out);
  expect([again.code, again.out.includes("missing")]).toEqual([0, false]);
  // People prefer the file, always; the first system of the pair is the server.
  expect(results().headline[0].rate).toMatchObject({ score: 0, votes: 10 });
  expect((await koala("verify", out)).code).toBe(0);
});

test("other answers or rules do not mix with a study that may have votes", async () => {
  writeFileSync(recipe, readFileSync(recipe, "utf8").replace("ratings = 1", "ratings = 2"));
  const { code, err } = await koala(recipe, "--out", out);
  expect(code).toBe(1);
  expect(err).toContain("holds a study of other answers or rules already");
});
