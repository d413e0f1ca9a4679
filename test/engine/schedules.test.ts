/** Random schedules: whatever arrives, leaves, is preempted or shares pages, each surviving request answers as if it were alone.
 *  The expectation is computed without the engine (expectedTokens), the pages are checked after each step. */
import { expect, test } from "bun:test";
import type { ContrastRequest, SamplingParams } from "../../src/engine/messages.ts";
import { CoreDriver } from "../support/engine_core.ts";
import {
  expectedTokens,
  fakeHidden,
  fakeLogits,
  type FakeRunnerOptions,
  greedy,
} from "../support/fake_runner.ts";
import { uniform } from "../../src/util/rng.ts";

const SCHEDULES = 240;
const ANSWER_MAX = 20;

interface Plan {
  id: string;
  prompt: number[];
  params: SamplingParams;
  group: string | null;
  priority: number;
  cacheSalt: string;
  embed: boolean;
  arrivesAt: number;
  abortsAt: number;
  contrast?: ContrastRequest;
}

class Dice {
  #index = 0;
  constructor(readonly seed: number) {}
  /** An integer in [low, high]. */
  between(low: number, high: number): number {
    return low + Math.floor(uniform(this.seed, this.#index++) * (high - low + 1));
  }
  chance(probability: number): boolean {
    return uniform(this.seed, this.#index++) < probability;
  }
  pick<T>(values: readonly T[]): T {
    return values[this.between(0, values.length - 1)]!;
  }
}

function drawLimits(
  dice: Dice,
): Required<Pick<FakeRunnerOptions, "pageSize" | "pageCount" | "maxTokens" | "maxRows">> {
  return {
    pageSize: dice.between(1, 6),
    pageCount: dice.between(6, 24),
    maxTokens: dice.between(1, 20),
    maxRows: dice.between(1, 8),
  };
}

function drawParams(dice: Dice): SamplingParams {
  const maxTokens = dice.chance(0.1) ? 0 : dice.between(1, ANSWER_MAX);
  return {
    ...greedy,
    maxTokens,
    minTokens: dice.between(0, maxTokens),
    temperature: dice.pick([0, 0.7, 1.3]),
    seed: dice.between(0, 2 ** 32 - 1),
    repetitionPenalty: dice.pick([1, 1, 1.4]),
    frequencyPenalty: dice.pick([0, 0, 0.8]),
    presencePenalty: dice.pick([0, 0, -0.5]),
    logitBias: dice.chance(0.2) ? [[dice.between(0, 49), 4]] : [],
    stopTokenIds: dice.chance(0.5) ? [dice.between(0, 49), dice.between(0, 49)] : [],
    logprobs: dice.pick([null, 0, 2]),
    promptLogprobs: dice.chance(0.2) ? 1 : null,
  };
}

/** Requests that share prefixes, all of which fit alone. */
function drawPlans(dice: Dice, pagedTokens: number): Plan[] {
  const plans: Plan[] = [];
  const longest = Math.min(30, pagedTokens - ANSWER_MAX);
  const root = Array.from({ length: longest }, () => dice.between(0, 49));
  const count = dice.between(2, 14);
  while (plans.length < count) {
    const shared = dice.between(0, longest);
    const length = Math.max(1, dice.between(shared, longest));
    const prompt = Array.from({ length }, (_, at) => (at < shared ? root[at]! : dice.between(0, 49)));
    const copies = dice.chance(0.25) ? dice.between(2, 4) : 1;
    const common = {
      prompt,
      priority: dice.pick([0, 0, 0, -1, 2]),
      cacheSalt: dice.pick(["", "", "x"]),
      arrivesAt: dice.between(0, 15),
    };
    for (let copy = 0; copy < copies; copy++)
      plans.push({
        ...common,
        id: `r${plans.length}`,
        params: drawParams(dice),
        group: copies > 1 ? `g${plans.length - copy}` : null,
        embed: copies === 1 && dice.chance(0.1),
        abortsAt: dice.chance(0.2) ? common.arrivesAt + dice.between(0, 25) : Infinity,
      });
  }
  return plans;
}

/** Some of the plans answer away from a second prompt, which shares a beginning with their own; those that fit. */
function contrasted(plans: Plan[], limits: ReturnType<typeof drawLimits>, dice: Dice): Plan[] {
  return plans.map((plan) => {
    const shared = dice.between(0, plan.prompt.length);
    const other = Array.from({ length: dice.between(1, 6) }, () => dice.between(0, 49));
    const contrast: ContrastRequest = {
      prompt: [...plan.prompt.slice(0, shared), ...other],
      strength: dice.pick([0, 0.5, 1.5, 3]),
      plausibility: dice.pick([0, 0.1, 0.5]),
    };
    const tokens = [plan.prompt.length, contrast.prompt.length].map((length) => length + ANSWER_MAX);
    const pages = tokens.reduce((sum, count) => sum + Math.ceil(count / limits.pageSize), 0);
    const fits = pages <= limits.pageCount && Math.min(limits.maxRows, limits.maxTokens) >= 2;
    return dice.chance(0.5) && fits && !plan.embed ? { ...plan, contrast } : plan;
  });
}

function run(driver: CoreDriver, plans: readonly Plan[]): void {
  for (let now = 0; now < 5000; now++) {
    for (const plan of plans) {
      if (plan.arrivesAt === now) {
        if (plan.embed) driver.core.embed({ id: plan.id, prompt: plan.prompt, cacheSalt: plan.cacheSalt });
        else driver.submit(plan.id, plan.prompt, plan.params, plan);
      }
      if (plan.abortsAt === now) driver.abort(plan.id);
    }
    driver.step();
    if (driver.core.idle && now > 60) return;
  }
  throw new Error("requests starve");
}

function compare(driver: CoreDriver, plan: Plan): void {
  if (plan.embed) {
    const mean = fakeHidden([], 3).map(() => 0);
    for (let end = 1; end <= plan.prompt.length; end++)
      fakeHidden(plan.prompt.slice(0, end), 3).forEach(
        (value, index) => (mean[index]! += value / plan.prompt.length),
      );
    const seen = driver.embeddings.get(plan.id)!;
    if (plan.abortsAt === Infinity)
      seen.embedding!.forEach((value, index) => expect(value).toBeCloseTo(mean[index]!, 10));
    return;
  }
  const { tokens, finish, prompt } = driver.of(plan.id);
  const expected = expectedTokens(plan.prompt, plan.params, 50, plan.contrast);
  if (finish?.reason === "abort") {
    expect(plan.abortsAt).toBeLessThan(Infinity);
    return expect(tokens).toEqual(expected.slice(0, tokens.length));
  }
  const stop = plan.params.stopTokenIds.find((id) => id === expected.at(-1));
  expect(tokens).toEqual(expected);
  expect(finish).toEqual({
    type: "finish",
    reason: stop === undefined ? "length" : "stop",
    stopTokenId: stop ?? null,
    error: null,
  });
  expect(prompt?.logprobs?.slice(1).map((score) => score?.logprob)).toEqual(promptLogprobs(plan));
}

function promptLogprobs({ prompt, params }: Plan): number[] | undefined {
  if (params.promptLogprobs === null) return undefined;
  return prompt.slice(1).map((id, at) => {
    const logits = fakeLogits(prompt.slice(0, at + 1), 50);
    return logits[id]! - Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
  });
}

test(`${SCHEDULES} random schedules give each request the answer it has alone and leave no page behind`, () => {
  const totals = { preemptions: 0, prefixHitTokens: 0, aborted: 0, contrasted: 0, grouped: 0, finished: 0 };
  for (let seed = 0; seed < SCHEDULES; seed++) {
    const dice = new Dice(seed);
    const limits = drawLimits(dice);
    limits.pageCount = Math.max(limits.pageCount, Math.ceil((ANSWER_MAX + 6) / limits.pageSize));
    const drawn = drawPlans(dice, limits.pageSize * limits.pageCount);
    const plans = contrasted(drawn, limits, new Dice(seed + SCHEDULES));
    const driver = new CoreDriver(limits);
    try {
      run(driver, plans);
      for (const plan of plans) compare(driver, plan);
      expect(driver.core.stats).toMatchObject({ running: 0, waiting: 0, pagesUsed: 0 });
      expect(driver.core.cache.freePages).toBe(limits.pageCount);
    } catch (error) {
      throw new Error(`schedule of seed ${seed}, ${JSON.stringify(limits)}: ${(error as Error).message}`, {
        cause: error,
      });
    }
    totals.preemptions += driver.core.stats.preemptions;
    totals.prefixHitTokens += driver.core.stats.prefixHitTokens;
    totals.contrasted += plans.filter(
      ({ contrast }) => contrast !== undefined && contrast.strength > 0,
    ).length;
    totals.grouped += plans.filter((plan) => plan.group !== null).length;
    for (const { finish } of driver.transcripts.values())
      totals[finish?.reason === "abort" ? "aborted" : "finished"]++;
  }
  // The schedules have met what they are for.
  expect(totals.preemptions).toBeGreaterThan(100);
  expect(totals.prefixHitTokens).toBeGreaterThan(1000);
  expect(totals.aborted).toBeGreaterThan(50);
  expect(totals.grouped).toBeGreaterThan(200);
  expect(totals.contrasted).toBeGreaterThan(100);
  expect(totals.finished).toBeGreaterThan(1000);
});
