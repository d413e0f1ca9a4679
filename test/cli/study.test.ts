/** `koala study serve | invite | export` as programs, over a study folder. */
import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { importStudy } from "../../src/server/study/import_study.ts";
import { openStore } from "../../src/store/store.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("study-cli");
const koala = [process.execPath, join(import.meta.dir, "..", "..", "src/cli/main.ts"), "study"];
const start = (args: string[]) => Bun.spawn([...koala, ...args], { stdout: "pipe", stderr: "pipe" });

async function run(...args: string[]): Promise<{ out: string; err: string; code: number }> {
  const child = start(args);
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { out, err, code };
}

beforeAll(async () => {
  const store = await openStore(join(folder, "study.db"));
  await importStudy(store, {
    title: "T",
    systems: ["x", "y"],
    pairs: [["x", "y"]],
    ratings: 1,
    raters: 1,
    seed: 1,
    questions: [
      {
        id: "s/1",
        set: "s",
        text: "Why?",
      },
    ],
    answers: ["x", "y"].map((system) => ({
      question: "s/1",
      system,
      text: `${system}!`,
      finish: "stop",
    })),
    goldShare: 0,
    repeatShare: 0,
    criteria: [],
    minDwellMs: 0,
  });
  await store.close();
});

test("invitations are printed again alike, a rater follows one, and the vote is exported as a pair", async () => {
  const { out } = await run("invite", folder, "--raters", "2", "--url", "https://lab.example/");
  expect(await run("invite", folder, "--raters", "2", "--url", "https://lab.example/")).toMatchObject({
    out,
  });
  const links = out.trim().split("\n");
  expect(links).toHaveLength(2);
  expect(links[0]).toMatch(/^https:\/\/lab\.example\/study\/[0-9a-z]{20}$/);
  const server = start(["serve", folder, "--port", "0"]);
  const lines = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await lines.read();
  const url = /http:\/\/[\d.:]+/.exec(value ?? "")![0];
  const path = `${url}${new URL(links[0]!).pathname}`;
  const post = async (what: string, body: object) => {
    const response = await fetch(`${path}/${what}`, { method: "POST", body: JSON.stringify(body) });
    expect(response.status).toBe(200);
    return response.json() as Promise<any>; // any: read as a client would
  };
  expect(await (await fetch(path)).text()).toContain("<title>");
  // The rest of the API is closed.
  expect((await fetch(`${url}/v1/models`)).status).toBe(401);
  await post("consent", { consent: true });
  const { task } = await post("next", {});
  await post("votes", { item: task.id, choice: task.left === "x!" ? "left" : "right" });
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
  const pairs = await run("export", folder, "--as", "pairs");
  expect(pairs).toEqual({ out: `{"prompt":"Why?","chosen":"x!","rejected":"y!"}\n`, err: "", code: 0 });
});

test("a folder without a study, and an unknown format, get one sentence", async () => {
  const nothing = await run("serve", join(folder, "none"));
  expect(nothing).toMatchObject({ code: 1, out: "" });
  expect(nothing.err).toMatch(/^koala: .*none has no study\.db: .*\n$/);
  const strange = await run("export", folder, "--as", "csv");
  expect(strange.code).toBe(1);
  expect(strange.err.trim().split("\n")).toHaveLength(1);
});
