import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { listFlags } from "../../src/store/flags.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { testServer } from "../support/test_server.ts";

const folder = temporaryFolder("reports-api");
let store: Store;
beforeAll(async () => {
  store = await openStore(join(folder, "koala.db"));
});
afterAll(() => store.close());

const report = { answer: "Something bad.", prompt: "What?", category: "harmful", note: "no" };
// any: the error's shape is what is checked
const errorOf = async (response: Response): Promise<any> => ((await response.json()) as any).error;

test("a server without reports, and a report in the wrong shape, say so", async () => {
  const none = await testServer().post("/v1/reports", report);
  expect([none.status, (await errorOf(none)).code]).toEqual([404, "no_reports"]);
  const server = testServer({ reports: store });
  for (const [body, param] of [
    [{ ...report, category: "rude" }, "category"],
    [{ ...report, answer: 7 }, "answer"],
    [{ ...report, note: "x".repeat(2001) }, "note"],
    [{ ...report, stranger: 1 }, "stranger"],
  ] as const) {
    const response = await server.post("/v1/reports", body);
    expect([response.status, (await errorOf(response)).param]).toEqual([400, param]);
  }
  expect((await listFlags(store, { limit: 5 })) as object).toMatchObject({ rows: [] });
});

test("twenty reports are taken a minute, the next is told when to come again, and none is lost", async () => {
  const server = testServer({ reports: store });
  const responses = await Promise.all(
    Array.from({ length: 23 }, (_, i) => server.post("/v1/reports", { ...report, note: `report ${i}` })),
  );
  const taken = responses.filter(({ status }) => status === 200);
  const refused = responses.filter(({ status }) => status === 429);
  expect([taken.length, refused.length]).toEqual([20, 3]);
  const seconds = Number(refused[0]!.headers.get("retry-after"));
  expect(seconds).toBeGreaterThan(50);
  expect(seconds).toBeLessThanOrEqual(60);
  expect((await errorOf(refused[0]!)).code).toBe("too_many_reports");
  const page = await listFlags(store, { limit: 100 });
  expect((page as { rows: object[] }).rows).toHaveLength(20);
});
