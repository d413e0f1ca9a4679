/** Which adapters are in memory, who uses them, and who must wait. */
import { expect, test } from "bun:test";
import { AdapterTable, adapterKey, type AdapterUser } from "../../src/engine/adapter_table.ts";
import type { AdapterWeights } from "../../src/engine/runner.ts";

/** A table over weights that say what happens to them. */
function table(max: number) {
  const log: string[] = [];
  const stamps = new Map<string, string>();
  const failing = new Set<string>();
  const adapters = new AdapterTable({
    max,
    stamp: async (path) => stamps.get(path) ?? "first",
    load: async (path): Promise<AdapterWeights> => {
      await Bun.sleep(0);
      if (failing.has(path)) throw new Error(`${path} is broken.`);
      log.push(`+${path}`);
      return { bytes: 1, close: () => log.push(`-${path}`) };
    },
  });
  const add = (id: string, generation = 1) => adapters.add({ id, generation, path: id });
  return { adapters, log, stamps, failing, add };
}

class User implements AdapterUser {
  state = "waits";
  constructor(
    readonly adapters: AdapterTable,
    readonly key: string,
  ) {
    if (!adapters.enter(key, this)) this.state = "refused";
  }
  start(): void {
    this.state = "runs";
  }
  fail(error: string): void {
    this.state = error;
  }
  leave(): void {
    this.adapters.leave(this.key, this);
  }
}

const turns = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await Bun.sleep(1);
};

test("the least recently used adapter that nobody uses makes room, and is loaded again when it is asked for", async () => {
  const { adapters, log, add } = table(2);
  await add("a");
  await add("b");
  const user = new User(adapters, "a@1");
  user.leave();
  await add("c");
  expect(log).toEqual(["+a", "+b", "-b", "+c"]);
  const again = new User(adapters, "b@1");
  expect(again.state).toBe("waits");
  expect(adapters.waiting).toEqual(["b"]);
  await turns();
  expect(again.state).toBe("runs");
  expect(log.slice(4)).toEqual(["-a", "+b"]);
  expect(adapters.loaded.sort()).toEqual(["b", "c"]);
});

test("where all are in use, one takes no new request until another had its turn: nobody starves, nobody loses weights", async () => {
  const { adapters, log, add } = table(1);
  await add("a");
  const first = new User(adapters, "a@1");
  const waiting = adapters.add({ id: "b", generation: 1, path: "b" });
  const late = new User(adapters, "a@1");
  await turns();
  expect([first.state, late.state]).toEqual(["runs", "waits"]);
  expect(log).toEqual(["+a"]);
  first.leave();
  await waiting;
  await turns();
  expect(late.state).toBe("runs");
  expect(log).toEqual(["+a", "-a", "+b", "-b", "+a"]);
});

test("an adapter that was about to leave stays when the other is not asked for any more", async () => {
  const { adapters, add } = table(1);
  await add("a");
  await add("b");
  const runs = new User(adapters, "b@1");
  const other = new User(adapters, "a@1");
  const late = new User(adapters, "b@1");
  expect([runs.state, other.state, late.state]).toEqual(["runs", "waits", "waits"]);
  other.leave();
  expect(late.state).toBe("runs");
});

test("a removed adapter runs with what has begun, refuses what is new, and is closed after the last", async () => {
  const { adapters, log, add } = table(2);
  await add("a", 1);
  const before = new User(adapters, "a@1");
  await adapters.remove("a@1");
  await add("a", 2);
  expect(new User(adapters, "a@1").state).toBe("refused");
  const after = new User(adapters, adapterKey({ id: "a", generation: 2 }));
  expect([before.state, after.state]).toEqual(["runs", "runs"]);
  expect(adapters.running).toEqual(["a"]);
  expect(log).toEqual(["+a", "+a"]);
  before.leave();
  expect(log).toEqual(["+a", "+a", "-a"]);
});

test("files are needed until whoever waits for a removed adapter has its weights", async () => {
  const { adapters, add } = table(1);
  await add("a");
  await add("b");
  const busy = new User(adapters, "b@1");
  const parked = new User(adapters, "a@1");
  let released = false;
  const removed = adapters.remove("a@1").then(() => (released = true));
  await turns();
  expect([parked.state, released]).toEqual(["waits", false]);
  busy.leave();
  await removed;
  expect(parked.state).toBe("runs");
});

test("one that cannot be loaded fails those that wait for it and no other, and may be asked for again", async () => {
  const { adapters, add, failing, stamps } = table(1);
  failing.add("broken");
  await expect(add("broken")).rejects.toThrow("broken is broken.");
  expect(new User(adapters, "broken@1").state).toBe("refused");
  await add("a");
  await add("b");
  failing.add("a");
  const unlucky = new User(adapters, "a@1");
  await turns();
  expect(unlucky.state).toBe("The adapter a cannot be loaded: a is broken.");
  failing.clear();
  const lucky = new User(adapters, "a@1");
  await turns();
  expect(lucky.state).toBe("runs");
  lucky.leave();
  // Other files under the same generation are not what the request asked for.
  stamps.set("b", "second");
  const changed = new User(adapters, "b@1");
  await turns();
  expect(changed.state).toMatch(/files of the adapter b in b have changed/);
});
