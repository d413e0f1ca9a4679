/** A study over HTTP, as a rater's page uses it: blind before the vote, resumable, correctable, paced. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Vote } from "../../../src/eval/comparison.ts";
import { preferenceFormat } from "../../../src/data/formats/preference.ts";
import { formatVotes } from "../../../src/eval/vote_formats.ts";
import { inviteCode, openCode } from "../../../src/server/study/codes.ts";
import { exportShownVotes, exportVotes } from "../../../src/server/study/export_votes.ts";
import { importStudy, type Study, type StudyInput } from "../../../src/server/study/import_study.ts";
import { listFlags } from "../../../src/store/flags.ts";
import { openStore, type Store } from "../../../src/store/store.ts";
import { listStudies, studyItemsOf } from "../../../src/store/studies.ts";
import { addRater, codeHash } from "../../../src/store/study_raters.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { testServer } from "../../support/test_server.ts";

const folder = temporaryFolder("study");
const systems = ["marsupial-all-13b", "highland-camelid"];
const questions = Array.from({ length: 12 }, (_, i) => ({ id: `s/${i}`, set: "s", text: `Question ${i}?` }));
const input: StudyInput = {
  title: "Which is better?",
  questions,
  systems,
  // The texts tell this test who wrote them, and nobody else.
  answers: questions.flatMap(({ id }) => [
    { question: id, system: systems[0]!, text: `Good ${id}`, finish: "stop" },
    { question: id, system: systems[1]!, text: `Poor ${id}`, finish: "stop" },
  ]),
  pairs: [[systems[0]!, systems[1]!]],
  ratings: 2,
  raters: 4,
  goldShare: 0.4,
  repeatShare: 0.2,
  criteria: [{ name: "correct", question: "Which is more correct?" }],
  seed: 1,
  minDwellMs: 0,
  votesPerMinute: 1000,
};

let store: Store;
let server: ReturnType<typeof testServer>;
beforeAll(async () => {
  store = await openStore(join(folder, "study.db"));
  server = testServer({ studies: store });
});
afterAll(() => store.close());

// any: answers are read as a client would, without our types.
async function call(path: string, body?: object): Promise<{ status: number; json: any; raw: string }> {
  const response = body === undefined ? await server.get(path) : await server.post(path, body);
  const text = await response.text();
  return {
    status: response.status,
    json: JSON.parse(text),
    raw: JSON.stringify([...response.headers]) + text,
  };
}

/** A study of its own, and a rater of it by invitation who has agreed. */
async function begin(more: Partial<StudyInput> = {}, number = 1) {
  const study = await importStudy(store, { ...input, ...more });
  const code = inviteCode(study, number);
  const rater = { studyId: study.id, inviteHash: codeHash(code), platform: "invite", submit: null };
  await addRater(store, rater);
  await call(`/study/${code}/consent`, { consent: true });
  return { study, code };
}

const pick = (task: { left: string; right: string }): string =>
  task.left.split(" ")[1] === task.right.split(" ")[1] && task.left === task.right
    ? "tie"
    : task.left.startsWith("Good")
      ? "left"
      : "right";

/** Rates to the end, and returns everything that was sent before each vote. */
async function rateAll(code: string): Promise<string[]> {
  const seen: string[] = [];
  for (;;) {
    const next = await call(`/study/${code}/next`, {});
    seen.push(next.raw);
    const { task } = next.json;
    if (task === null) return seen;
    const voted = await call(`/study/${code}/votes`, { item: task.id, choice: pick(task), dwell_ms: 5 });
    expect(voted.status).toBe(200);
    seen.push(voted.raw);
  }
}

describe("a study", () => {
  test("tells nobody which system wrote what, in no header and no body", async () => {
    const { code, study } = await begin({ title: "blind" });
    const state = await call(`/study/${code}/state`);
    const seen = [state.raw, ...(await rateAll(code))];
    seen.push((await call(`/study/${code}/done`)).raw);
    const items = await studyItemsOf(store, study.id);
    const secrets = ["system", ...systems];
    // Whole words: ids are random letters.
    for (const raw of seen) expect(raw).not.toMatch(/\b(gold|repeat|real|expected)\b/);
    for (const raw of seen) for (const word of secrets) expect(raw.toLowerCase()).not.toContain(word);
    for (const raw of seen) for (const { id, answerA } of items) expect(raw).not.toMatch(`${id}|${answerA}`);
    // One shape for every kind of item.
    const fields = seen.flatMap((raw) => /"task":\{(.*?)"vote"/.exec(raw)?.[1] ?? []);
    const shapes = fields.map((text) => [...text.matchAll(/"(\w+)":/g)].map((match) => match[1]).join());
    expect(new Set(shapes)).toEqual(new Set(["id,number,question,left,right,wait_ms"]));
    expect(seen.length).toBeGreaterThan(10);
  });

  test("gives the votes by system, with their kind, side and right verdict", async () => {
    const { code, study } = await begin({ title: "votes" });
    await rateAll(code);
    const votes = await exportVotes(store, study.id);
    const of = (kind: Vote["kind"]) => votes.filter((vote) => vote.kind === kind);
    const met = new Set(of("real").map(({ question }) => question));
    const items = await studyItemsOf(store, study.id);
    // A gold on a question that this rater has met is no choice.
    const free = items.filter(({ kind, question }) => kind === "gold" && !met.has(question)).length;
    expect([of("real").length, of("gold").length, of("repeat").length]).toEqual([6, Math.min(2, free), 1]);
    expect(of("real").every(({ verdict }) => verdict === "a")).toBe(true);
    for (const { expected, verdict, question } of of("gold"))
      if (expected === "tie") expect({ question, verdict }).toEqual({ question, verdict: "tie" });
    const repeat = of("repeat")[0]!;
    const first = of("real").find(({ question }) => question === repeat.question)!;
    expect([first.left, repeat.left].toSorted()).toEqual(["a", "b"]);
    expect(new Set(votes.map(({ rater }) => rater)).size).toBe(1);
    expect(votes.every(({ time, dwellMs }) => dwellMs! <= 5 && Math.abs(time - Date.now()) < 60_000)).toBe(
      true,
    );
  });

  test("is filled by its raters: each item with its ratings, sides in balance", async () => {
    const { study } = await begin({ title: "full" });
    for (let number = 1; number <= 4; number++) await rateAll((await begin({ title: "full" }, number)).code);
    const real = (await exportVotes(store, study.id)).filter(({ kind }) => kind === "real");
    for (const { id } of questions) {
      const own = real.filter(({ question }) => question === id);
      expect(own.map(({ left }) => left).toSorted()).toEqual(["a", "b"]);
      expect(new Set(own.map(({ rater }) => rater)).size).toBe(2);
    }
    const late = await begin({ title: "full" }, 5);
    expect((await call(`/study/${late.code}/next`, {})).json.task).toBeNull();
  });

  test("shows the same item again after the tab was closed, and goes on after the vote", async () => {
    const { code } = await begin({ title: "resume" });
    const first = (await call(`/study/${code}/next`, {})).json;
    const again = (await call(`/study/${code}/next`, {})).json;
    expect(again).toEqual(first);
    await call(`/study/${code}/votes`, { item: first.task.id, choice: "tie" });
    const second = (await call(`/study/${code}/next`, {})).json;
    expect(second.task.id).not.toBe(first.task.id);
    expect(second.progress.done).toBe(1);
  });

  test("keeps corrections as new rows, of which the last counts", async () => {
    const { code, study } = await begin({ title: "correct" });
    const { task } = (await call(`/study/${code}/next`, {})).json;
    const vote = (choice: string, more: object = {}) =>
      call(`/study/${code}/votes`, { item: task.id, choice, ...more });
    await vote("left", { criteria: { correct: "right" }, note: "hm" });
    const back = (await call(`/study/${code}/items/${task.id}`)).json;
    expect(back.vote).toEqual({ choice: "left", criteria: { correct: "right" }, note: "hm" });
    await vote("both_bad", { criteria: { correct: "right" } });
    const votes = await exportVotes(store, study.id);
    const leftIsA = votes[0]!.left === "a";
    expect(votes.map(({ criterion, verdict }) => [criterion, verdict]).toSorted()).toEqual([
      ["correct", leftIsA ? "b" : "a"],
      ["overall", "both_bad"],
    ]);
    const { studyVotes } = store.tables;
    expect(await store.read.$count(studyVotes)).toBeGreaterThanOrEqual(4);
    const rows = (await store.read.select().from(studyVotes)).filter((row) => row.studyId === study.id);
    expect(rows.map(({ criterion, number }) => `${criterion} ${number}`).toSorted()).toEqual([
      "correct 0",
      "correct 1",
      "overall 0",
      "overall 1",
    ]);
  });

  test("refuses votes that come too soon or too fast, and says when to try again", async () => {
    const slow = await begin({ title: "dwell", minDwellMs: 60_000 });
    const { task } = (await call(`/study/${slow.code}/next`, {})).json;
    expect(task.wait_ms).toBeGreaterThan(55_000);
    const soon = await server.post(`/study/${slow.code}/votes`, { item: task.id, choice: "left" });
    expect(soon.status).toBe(429);
    expect(Number(soon.headers.get("retry-after-ms"))).toBeGreaterThan(50_000);
    const fast = await begin({ title: "pace", votesPerMinute: 2 });
    const codes: string[] = [];
    for (let i = 0; i < 3; i++) {
      const next = (await call(`/study/${fast.code}/next`, {})).json.task;
      const { json } = await call(`/study/${fast.code}/votes`, { item: next.id, choice: "left" });
      codes.push(json.error?.code ?? "taken");
    }
    expect(codes).toEqual(["taken", "taken", "too_fast"]);
  });

  test("gives a leaver's items to the next, and takes a late vote all the same", async () => {
    const more = { title: "leave", awayMinutes: -1, raters: 2, goldShare: 0, repeatShare: 0, ratings: 1 };
    const { study, code } = await begin(more);
    const { task } = (await call(`/study/${code}/next`, {})).json;
    // With 2 raters each has 6 of 12; the second takes what the first left only once the quota allows it.
    const second = await begin(more, 2);
    await rateAll(second.code);
    const third = await begin(more, 3);
    await rateAll(third.code);
    const real = await exportVotes(store, study.id);
    expect(new Set(real.map(({ question }) => question)).size).toBe(12);
    expect((await call(`/study/${code}/votes`, { item: task.id, choice: "left" })).status).toBe(200);
    expect(await exportVotes(store, study.id)).toHaveLength(13);
  });
});

describe("raters", () => {
  test("come by one open link, each with a code of their own; a worker comes back to the same", async () => {
    const study = await importStudy(store, { ...input, title: "open" });
    const code = openCode(study);
    expect((await call(`/study/${code}/state`)).json).toMatchObject({
      open: true,
      consented: false,
      total: 0,
    });
    const own = async (more: object) =>
      (await call(`/study/${code}/consent`, { consent: true, ...more })).json.code;
    expect(await own({})).not.toBe(await own({}));
    const worker = { prolific_pid: "participant-0042" };
    expect(await own(worker)).toBe(await own(worker));
    expect(await own(worker)).not.toBe(await own({ prolific_pid: "participant-0043" }));
    expect(JSON.stringify(await store.read.select().from(store.tables.studyRaters))).not.toContain(
      "participant-0042",
    );
  });

  test("of Mechanical Turk end with the form that it wants, and with no other site's", async () => {
    const study = await importStudy(store, { ...input, title: "turk" });
    const visit = { consent: true, worker_id: "W1", assignment_id: "A7" };
    const path = `/study/${openCode(study)}/consent`;
    const evil = await call(path, { ...visit, turk_submit_to: "https://example.org" });
    expect([evil.status, evil.json.error.param]).toEqual([400, "turk_submit_to"]);
    const { code } = (await call(path, { ...visit, turk_submit_to: "https://workersandbox.mturk.com" })).json;
    expect((await call(`/study/${code}/done`)).json.error.code).toBe("not_done");
    await rateAll(code);
    const done = (await call(`/study/${code}/done`)).json;
    expect(done.submit.url).toBe("https://workersandbox.mturk.com/mturk/externalSubmit");
    expect(done.submit.fields).toMatchObject({ assignmentId: "A7", completionCode: done.code });
    expect(done.code).toMatch(/^[0-9A-Z]{10}$/);
  });

  test("must agree first, need a code that exists, and see no items of others", async () => {
    const study = await importStudy(store, { ...input, title: "consent" });
    expect((await call(`/study/${openCode(study)}/next`, {})).json.error.code).toBe("no_consent");
    expect((await call("/study/nonsense/state")).status).toBe(404);
    const [one, two] = [await begin({ title: "consent" }, 1), await begin({ title: "consent" }, 2)];
    const { task } = (await call(`/study/${one.code}/next`, {})).json;
    expect((await call(`/study/${two.code}/items/${task.id}`)).status).toBe(404);
    const theft = await call(`/study/${two.code}/votes`, { item: task.id, choice: "left" });
    expect(theft.status).toBe(404);
  });

  test("report an answer, which reaches the list of flags with its system", async () => {
    const { code } = await begin({ title: "report" });
    const { task } = (await call(`/study/${code}/next`, {})).json;
    const flag = { item: task.id, side: "left", category: "harmful", note: "ugh" };
    expect((await call(`/study/${code}/flags`, flag)).json).toEqual({ reported: true });
    const page = await listFlags(store, { limit: 5 });
    const row = (page as { rows: { answer: string; model: string; note: string }[] }).rows[0]!;
    expect(row).toMatchObject({ answer: task.left, note: "ugh", state: "open", source: "study" });
    expect(row.model).toBe(task.left.startsWith("Good") ? systems[0]! : systems[1]!);
  });
});

test("the same study is imported once, and a wrong one is refused in a sentence", async () => {
  const before = (await listStudies(store)).length;
  const once: Study = await importStudy(store, { ...input, title: "once" });
  expect((await importStudy(store, { ...input, title: "once" })).id).toBe(once.id);
  expect(await listStudies(store)).toHaveLength(before + 1);
  const wrong = importStudy(store, { ...input, pairs: [["nobody", systems[0]!]] });
  expect(wrong).rejects.toThrow("The pair nobody, marsupial-all-13b must name two different systems");
  expect(importStudy(store, { ...input, answers: [] })).rejects.toThrow("has nothing to compare");
});

test("votes leave as preference pairs, battles and Label Studio tasks", async () => {
  const { code, study } = await begin({ title: "export" });
  await rateAll(code);
  const votes = await exportShownVotes(store, study.id);
  const lines = (format: "pairs" | "arena" | "votes") =>
    formatVotes(votes, format)
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
  expect(lines("pairs")).toHaveLength(6);
  for (const pair of lines("pairs")) {
    const [, id] = pair.chosen.split(" ");
    // Training data as koala train reads it.
    expect(preferenceFormat.parse(pair, {}).record).toMatchObject({
      kind: "preference",
      chosen: [{ role: "assistant", content: `Good ${id}` }],
    });
    expect(pair).toEqual({
      prompt: `Question ${id.slice(2)}?`,
      chosen: `Good ${id}`,
      rejected: `Poor ${id}`,
    });
  }
  expect(lines("arena")[0]).toMatchObject({ winner: "model_a", model_a: systems[0]!, turn: 1, anony: true });
  expect(lines("votes")).toEqual(await exportVotes(store, study.id));
  const [task] = JSON.parse(formatVotes(votes, "label-studio"));
  const { selected } = task.annotations[0].result[0].value;
  expect(task.data[selected]).toStartWith("Good");
});
