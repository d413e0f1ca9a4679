import { expect, test } from "bun:test";
import { listEvents, listMetrics, type StoredEvent } from "../../src/store/job_events.ts";
import {
  addJob,
  beat,
  changeJob,
  claimJob,
  claimValidation,
  deathsMax,
  endLease,
  endValidation,
  findJob,
  loseLease,
  type NewJob,
  newJobId,
} from "../../src/store/jobs.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { onEachDatabase } from "../support/stores.ts";

const wish: NewJob = {
  model: "m",
  source: { path: "p", template: null, base: "m" },
  trainingFile: "file-1",
  validationFile: null,
  suffix: null,
  seed: 1,
  method: { type: "supervised", hyperparameters: {} },
  metadata: null,
};

async function eventsOf(store: Store, jobId: string): Promise<StoredEvent[]> {
  const page = await listEvents(store, jobId, { limit: 100 });
  if (page === "no such cursor") throw new Error("a page without a cursor has none to miss");
  return page.rows;
}

onEachDatabase("the queue of jobs", (newDatabase) => {
  async function open(count = 1): Promise<Store[]> {
    const url = await newDatabase();
    return Promise.all(Array.from({ length: count }, () => openStore(url)));
  }
  const make = async (store: Store): Promise<string> => {
    const { id } = await addJob(store, newJobId(), wish, [{ message: "made" }]);
    expect((await claimValidation(store, "reader"))!.id).toBe(id);
    await endValidation(store, { jobId: id, owner: "reader" }, null);
    await Bun.sleep(2); // the order is that of times in milliseconds
    return id;
  };

  test("gives each job to one claimant, the oldest first, however many ask", async () => {
    const stores = await open(3);
    const ids = [];
    for (let i = 0; i < 6; i++) ids.push(await make(stores[0]!));
    const claimed = await Promise.all(
      Array.from({ length: 8 }, (_, i) => claimJob(stores[i % 3]!, `owner ${i}`)),
    );
    const got = claimed.flatMap((job) => (job === null ? [] : [job.id]));
    expect(got.toSorted()).toEqual(ids.toSorted());
    expect(claimed.filter((job) => job === null)).toHaveLength(2);
    await Promise.all(stores.map((store) => store.close()));
  });

  test("files are read by one server, again when it died, and never when that always happens", async () => {
    const [one, two] = await open(2);
    const { id, status } = await addJob(one!, newJobId(), wish, []);
    expect(status).toBe("validating_files");
    expect(await claimJob(one!, "trainer")).toBeNull();
    const claimed = await Promise.all([one!, two!].map((store, i) => claimValidation(store, `reader ${i}`)));
    expect(claimed.filter((job) => job !== null)).toHaveLength(1);
    const first = { jobId: id, owner: claimed[0] === null ? "reader 1" : "reader 0" };
    await loseLease(one!, first, 0);
    await endValidation(one!, first, null);
    expect((await findJob(one!, id))!.status).toBe("validating_files");
    for (let i = 1; i < deathsMax; i++) {
      expect((await claimValidation(two!, `next ${i}`))?.id).toBe(id);
      await loseLease(two!, { jobId: id, owner: `next ${i}` }, 0);
    }
    expect(await claimValidation(one!, "the last")).toBeNull();
    expect(await findJob(one!, id)).toMatchObject({ status: "failed", error: { code: "validation_died" } });
    const { id: unwanted } = await addJob(one!, newJobId(), wish, []);
    expect((await claimValidation(one!, "reader"))?.id).toBe(unwanted);
    expect((await changeJob(two!, unwanted, "cancel"))?.status).toBe("cancelled");
    await endValidation(one!, { jobId: unwanted, owner: "reader" }, null);
    expect((await findJob(one!, unwanted))!.status).toBe("cancelled");
    await Promise.all([one!.close(), two!.close()]);
  });

  test("a lease that ran out is given to the next, and who lost it writes nothing any more", async () => {
    const [store] = await open();
    const jobId = await make(store!);
    await claimJob(store!, "first", 30);
    expect(await beat(store!, { jobId, owner: "first", ms: 30 }, { step: 3, steps: 9 })).toBe("running");
    expect(await claimJob(store!, "second")).toBeNull();
    await Bun.sleep(50);
    expect(await claimJob(store!, "second")).toMatchObject({ id: jobId, step: 3 });
    const first = { jobId, owner: "first" };
    expect(await beat(store!, first, { step: 8 }, [{ message: "late" }])).toBeNull();
    const done = { status: "succeeded", fineTunedModel: "x", resultFile: null, trainedTokens: 1 } as const;
    expect(await endLease(store!, first, done)).toBe(false);
    expect(await findJob(store!, jobId)).toMatchObject({ status: "running", step: 3, fineTunedModel: null });
    const rows = await eventsOf(store!, jobId);
    expect(rows.map(({ message }) => message)).toEqual([
      "The files were validated; the job waits in the queue",
      "made",
    ]);
    expect(await endLease(store!, { jobId, owner: "second" }, done)).toBe(true);
    expect(await changeJob(store!, jobId, "cancel")).toBeNull();
    await store!.close();
  });

  test("a pause holds at once, and a resumed job waits until its last process has let go", async () => {
    const [store] = await open();
    const jobId = await make(store!);
    const held = { jobId, owner: "a" };
    await claimJob(store!, "a");
    expect((await changeJob(store!, jobId, "pause"))!.status).toBe("paused");
    expect(await beat(store!, held, { step: 2 })).toBe("paused");
    expect((await changeJob(store!, jobId, "resume"))!.status).toBe("queued");
    expect(await claimJob(store!, "b")).toBeNull();
    const error = { code: "x", message: "y", param: null };
    // Too late to fail: the job is not this process's to end.
    expect(await endLease(store!, held, { status: "failed", error })).toBe(false);
    expect(await endLease(store!, held, { status: "released" })).toBe(true);
    expect(await claimJob(store!, "b")).toMatchObject({ id: jobId, step: 2 });
    await store!.close();
  });

  test("deaths count while nothing gets further, and then the job fails with a sentence", async () => {
    const [store] = await open();
    const jobId = await make(store!);
    const die = async (owner: string, step: number) => {
      expect((await claimJob(store!, owner))?.id).toBe(jobId);
      await beat(store!, { jobId, owner }, { step });
      await loseLease(store!, { jobId, owner }, 0);
    };
    for (const step of [1, 2, 3, 4]) await die(`moving ${step}`, step);
    for (let i = 1; i < deathsMax; i++) await die(`stuck ${i}`, 4);
    await die("stuck for good", 4);
    expect(await claimJob(store!, "another")).toBeNull();
    const job = await findJob(store!, jobId);
    expect(job).toMatchObject({ status: "failed", error: { code: "training_process_died" } });
    expect(job!.error!.message).toContain(`died ${deathsMax} times in a row at step 4`);
    await store!.close();
  });

  test("events keep their order and numbers when two processes write; metrics are thinned to what is asked", async () => {
    const [one, two] = await open(2);
    const jobId = await make(one!);
    await claimJob(one!, "a");
    const steps = Array.from({ length: 40 }, (_, i) => i + 1);
    const events = (from: number) =>
      steps
        .slice(from, from + 10)
        .map((step) => ({ type: "metrics" as const, message: "", step, data: { step } }));
    await Promise.all(
      [0, 10, 20, 30].map((from, i) => beat(i % 2 ? one! : two!, { jobId, owner: "a" }, {}, events(from))),
    );
    const rows = await eventsOf(one!, jobId);
    expect(rows.map(({ number }) => number)).toEqual(Array.from({ length: 42 }, (_, i) => 41 - i));
    const metrics = async (pointsMax: number, afterStep = -1) =>
      (await listMetrics(one!, jobId, { afterStep, pointsMax })).map(({ step }) => step);
    expect(await metrics(100)).toEqual(steps);
    expect(await metrics(7)).toEqual([6, 12, 18, 24, 30, 36, 40]);
    expect(await metrics(100, 38)).toEqual([39, 40]);
    await Promise.all([one!.close(), two!.close()]);
  });
});
