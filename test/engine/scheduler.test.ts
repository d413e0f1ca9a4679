/** Who runs in which step. The fake runner records the rows of each. */
import { expect, test } from "bun:test";
import { CoreDriver } from "../support/engine_core.ts";
import { expectedTokens, fakeHidden, type FakeRunnerOptions, greedy } from "../support/fake_runner.ts";

const tokens = (count: number, start = 0) =>
  Array.from({ length: count }, (_, index) => (start + index * 7) % 50);

/** Token counts of the rows of each step. */
function recorded(options: FakeRunnerOptions): { driver: CoreDriver; steps: number[][] } {
  const steps: number[][] = [];
  const driver = new CoreDriver({
    ...options,
    onStep: (rows) => steps.push(rows.map((row) => row.tokens.length)),
  });
  return { driver, steps };
}

test("decoding rows come first, chunks of prefill fill the rest of the step", () => {
  const { driver, steps } = recorded({ maxTokens: 8 });
  driver.submit("short", tokens(3), { maxTokens: 6 });
  driver.submit("long", tokens(20, 1), { maxTokens: 2 });
  driver.drain();
  expect(steps).toEqual([[3, 5], [1, 7], [1, 7], [1, 1], [1, 1], [1]]);
});

test("a long prompt never keeps a decoding sequence waiting", () => {
  const { driver, steps } = recorded({ maxTokens: 4, maxModelLen: 200 });
  driver.submit("chat", tokens(4), { maxTokens: 20 });
  driver.step();
  driver.submit("book", tokens(100, 3), { maxTokens: 1 });
  driver.drain();
  expect(steps.slice(1, 20).every((rows) => rows[0] === 1)).toBe(true);
  expect(driver.of("chat").tokens.length).toBe(20);
});

test("a smaller priority runs first, equal ones in order of arrival", () => {
  const { driver } = recorded({ maxRows: 1 });
  const order: string[] = [];
  for (const [id, priority] of [
    ["late", 1],
    ["b", 0],
    ["c", 0],
    ["urgent", -5],
  ] as const)
    driver.submit(id, tokens(5), { maxTokens: 1 }, { priority });
  while (!driver.core.idle) {
    driver.step();
    for (const [id, { finish }] of driver.transcripts)
      if (finish !== null && !order.includes(id)) order.push(id);
  }
  expect(order).toEqual(["urgent", "b", "c", "late"]);
});

test("when pages run out the latest of the lowest priority loses its own and still answers as if alone", () => {
  const { driver } = recorded({ pageSize: 2, pageCount: 12, maxRows: 4 });
  const preempted = new Set<string>();
  const requests = [
    ["old", 0, 1],
    ["new", 0, 2],
    ["low", 9, 3],
  ] as const;
  for (const [id, priority, start] of requests)
    driver.submit(id, tokens(4, start), { maxTokens: 15 }, { priority });
  while (!driver.core.idle) {
    const before = driver.core.owners.map((sequence) => sequence.id);
    driver.step();
    const { waiting } = driver.core.scheduler;
    for (const sequence of waiting) if (before.includes(sequence.id)) preempted.add(sequence.id);
  }
  expect([...preempted]).toEqual(["low", "new"]);
  for (const [id, , start] of requests)
    expect(driver.of(id).tokens).toEqual(expectedTokens(tokens(4, start), { ...greedy, maxTokens: 15 }));
});

test("the followers of a group wait for the leader's prompt and then take it from the cache", () => {
  const { driver, steps } = recorded({ maxTokens: 16, pageSize: 4 });
  for (const id of ["leader", "f1", "f2"]) driver.submit(id, tokens(41), { maxTokens: 1 }, { group: "g" });
  driver.drain();
  expect(steps).toEqual([[16], [16], [9], [1, 1]]);
  expect([driver.of("leader"), driver.of("f1"), driver.of("f2")].map((t) => t.prompt?.cachedTokens)).toEqual([
    0, 40, 40,
  ]);
});

test("a follower leads when the leader is aborted half-way, and strangers are not held up", () => {
  const { driver } = recorded({ maxTokens: 16, pageSize: 4 });
  for (const id of ["leader", "f1", "f2"]) driver.submit(id, tokens(41), { maxTokens: 1 }, { group: "g" });
  driver.submit("stranger", tokens(3, 9), { maxTokens: 1 });
  driver.step();
  driver.abort("leader");
  driver.drain();
  for (const id of ["f1", "f2"])
    expect(driver.of(id).tokens).toEqual(expectedTokens(tokens(41), { ...greedy, maxTokens: 1 }));
  // What the leader had computed before it was aborted was not lost.
  expect(driver.of("f1").prompt?.cachedTokens).toBe(16);
  expect(driver.of("stranger").finish?.reason).toBe("length");
});

test("a leader that loses its pages half-way does not wait for itself", () => {
  const { driver } = recorded({ pageSize: 2, pageCount: 12, maxTokens: 2 });
  driver.submit("old", tokens(2, 4), { maxTokens: 20 });
  driver.step();
  for (const id of ["leader", "follower"]) driver.submit(id, tokens(15), { maxTokens: 3 }, { group: "g" });
  driver.drain(200);
  expect(driver.core.stats.preemptions).toBeGreaterThan(0);
  for (const id of ["leader", "follower"])
    expect(driver.of(id).tokens).toEqual(expectedTokens(tokens(15), { ...greedy, maxTokens: 3 }));
});

test("an embedding that loses its pages half-way is summed again from the start", () => {
  const { driver } = recorded({ pageSize: 2, pageCount: 12, maxTokens: 2 });
  const prompt = tokens(15);
  driver.submit("old", tokens(2, 4), { maxTokens: 20 });
  driver.step();
  driver.core.embed({ id: "e", prompt, cacheSalt: "" });
  driver.drain(200);
  expect(driver.core.stats.preemptions).toBeGreaterThan(0);
  const mean = [0, 0, 0];
  for (let end = 1; end <= prompt.length; end++)
    fakeHidden(prompt.slice(0, end), 3).forEach((value, index) => (mean[index]! += value / prompt.length));
  driver.embeddings
    .get("e")!
    .embedding!.forEach((value, index) => expect(value).toBeCloseTo(mean[index]!, 12));
});

test("a large request at the head of the queue is not starved by small ones behind it", () => {
  const { driver } = recorded({ pageSize: 4, pageCount: 10, maxRows: 8 });
  driver.submit("first", tokens(4), { maxTokens: 8 });
  driver.step();
  driver.submit("large", tokens(34, 1), { maxTokens: 2 });
  for (let now = 0; driver.of("large").prompt === null; now++) {
    if (now > 100) throw new Error("the large request starves");
    driver.submit(`small ${now}`, tokens(2, 2), { maxTokens: 2 });
    expect([...driver.transcripts.keys()].filter((id) => id.startsWith("small"))).toEqual([]);
    driver.step();
  }
  driver.drain();
});

test("more running sequences than tokens of a step are not admitted", () => {
  const { driver, steps } = recorded({ maxTokens: 3, maxRows: 16 });
  for (let index = 0; index < 9; index++) driver.submit(`r${index}`, tokens(2, index), { maxTokens: 4 });
  driver.drain();
  expect(Math.max(...steps.map((rows) => rows.length))).toBe(3);
  for (let index = 0; index < 9; index++) expect(driver.of(`r${index}`).tokens.length).toBe(4);
});
