/** The arena over fake engines: anonymous until the vote, marked where it must not count, and through the chat's own handler. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { exportBattles } from "../../src/server/study/export_votes.ts";
import { votedBattles } from "../../src/store/battles.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { readEvents, testServer, type TestServer } from "../support/test_server.ts";

const folder = temporaryFolder("arena");
let store: Store;
let server: TestServer;

beforeAll(async () => {
  store = await openStore(join(folder, "arena.db"));
  const engine = { script: () => "Leaves, mostly." };
  server = testServer({ arena: store, engine, model: { id: "wombat-one", aliases: [] } });
  // A second model of the same engine: what is told apart here is the names.
  server.context.models.add({ ...server.model, id: "numbat-two" });
});
afterAll(() => store.close());

async function battle(prompt: string) {
  const response = await server.post("/arena/battles", { prompt, rater: "visitor-1" });
  const headers = JSON.stringify([...response.headers]);
  const text = await response.clone().text();
  const { events } = await readEvents(response);
  return { events, raw: headers + text, id: events[0]?.battle as string };
}

const vote = async (id: string, choice: string) => {
  const response = await server.post(`/arena/battles/${id}/vote`, { choice });
  // any: answers are read as a client would, without our types.
  return { status: response.status, json: (await response.json()) as any };
};

test("streams two answers without a name, and tells the names after the vote", async () => {
  const { events, raw, id } = await battle("Hello there");
  expect(raw).not.toMatch(/wombat|numbat|model/i);
  for (const side of ["left", "right"]) {
    const own = events.filter((event) => event.side === side);
    expect(own.map(({ text = "" }) => text).join("")).toBe("Leaves, mostly.");
    expect(own.at(-1).finish).toMatch(/stop|length/);
  }
  expect(events.at(-1)).toEqual({ ended: true });
  const { json } = await vote(id, "left");
  expect([json.left, json.right].toSorted()).toEqual(["numbat-two", "wombat-one"]);
  const stored = (await votedBattles(store)).find((one) => one.id === id)!;
  const winner = stored.verdict === "a" ? stored.systemA : stored.systemB;
  expect(winner).toBe(json.left);
  expect(stored.answerA).toBe("Leaves, mostly.");
  const again = await vote(id, "right");
  expect([again.status, again.json.error.code]).toEqual([409, "voted"]);
});

test("takes no vote on a battle that does not exist or has not ended", async () => {
  expect((await vote("battle-x", "left")).json.error.code).toBe("unknown_battle");
});

test("swaps sides by a coin, and stores equal pairs alike", async () => {
  const lefts = new Set<string>();
  for (let i = 0; i < 40 && lefts.size < 2; i++) {
    const { id } = await battle("Which side?");
    lefts.add((await vote(id, "tie")).json.left);
  }
  expect(lefts.size).toBe(2);
  const pairs = new Set((await exportBattles(store)).map((one) => `${one.systemA} ${one.systemB}`));
  expect([...pairs]).toEqual(["numbat-two wombat-one"]);
});

test("counts votes in the standings, as exported votes of the set arena", async () => {
  const response = await server.get("/arena/leaderboard");
  const { systems } = (await response.json()) as {
    systems: { battles: number; wins: number; losses: number }[];
  };
  const votes = await exportBattles(store);
  expect(votes.every(({ set, kind }) => set === "arena" && kind === "real")).toBe(true);
  expect(systems.map(({ battles }) => battles)).toEqual([votes.length, votes.length]);
  expect(systems.reduce((sum, { wins }) => sum + wins, 0)).toBe(1);
  expect(systems.reduce((sum, { losses }) => sum + losses, 0)).toBe(1);
});

test("marks battles with a failed answer, whose error names nobody either", async () => {
  const broken = testServer({ arena: store, model: { id: "wombat-one", aliases: [], maxModelLen: 4 } });
  broken.context.models.add({ ...broken.model, id: "numbat-two" });
  const response = await broken.post("/arena/battles", { prompt: "far too long for that model" });
  const { events } = await readEvents(response.clone());
  expect(await response.text()).not.toMatch(/wombat|numbat|model/i);
  expect(events.filter(({ finish }) => finish === "error")).toHaveLength(2);
  const voted = await broken.post(`/arena/battles/${events[0].battle}/vote`, { choice: "left" });
  expect(await voted.json()).toMatchObject({ counted: false });
  const exported = (await exportBattles(store)).map(({ question }) => question);
  expect(exported).not.toContain(`arena/${events[0].battle}`);
  expect(broken.log.some((line) => line.includes("wombat-one failed"))).toBe(true);
});

test("marks battles with an answer that tells who wrote it, and says by which word", async () => {
  const engine = { script: () => "I am Wombat One." };
  const vain = testServer({ arena: store, engine, model: { id: "wombat-one", aliases: [] } });
  vain.context.models.add({ ...vain.model, id: "numbat-two" });
  const { events } = await readEvents(await vain.post("/arena/battles", { prompt: "Who?" }));
  const voted = await vain.post(`/arena/battles/${events[0].battle}/vote`, { choice: "left" });
  expect(await voted.json()).toMatchObject({ counted: false, leaks: ["wombat-one"] });
});

test("says what is missing where there is no second model, or no arena", async () => {
  const lonely = testServer({ arena: store });
  const alone = await lonely.post("/arena/battles", { prompt: "x" });
  expect([alone.status, ((await alone.json()) as any).error.code]).toEqual([503, "no_opponents"]); // any: as above
  const none = await testServer().post("/arena/battles", { prompt: "x" });
  expect([none.status, ((await none.json()) as any).error.code]).toEqual([404, "no_arena"]); // any: as above
});
