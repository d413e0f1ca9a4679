/** The rating page in Chromium, over a real study: what a rater sees, presses and hears on a phone and on a desk. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { createServer } from "../../../../src/server/app.ts";
import { ModelRegistry, serverContext } from "../../../../src/server/context.ts";
import { listen, type RunningServer } from "../../../../src/server/listen.ts";
import { openCode } from "../../../../src/server/study/codes.ts";
import { exportVotes } from "../../../../src/server/study/export_votes.ts";
import { importStudy, type Study } from "../../../../src/server/study/import_study.ts";
import { loadRatingPages } from "../../../../src/server/web/rating/pages.ts";
import { openStore, type Store } from "../../../../src/store/store.ts";
import { browserPath, browserSkipReason, launchBrowser } from "../../../support/browser.ts";
import { temporaryFolder } from "../../../support/temporary.ts";
import { contrasts } from "../contrast.ts";

setDefaultTimeout(30_000);

test("the pages name only their own files, may be framed by Mechanical Turk alone, and are small", async () => {
  const pages = await loadRatingPages();
  const document = pages.get("/study/:code")!;
  const policy = document.headers["content-security-policy"]!;
  expect(policy).toContain("frame-ancestors 'self' https://worker.mturk.com");
  expect(policy).toContain("script-src 'self'");
  expect(document.headers["x-frame-options"]).toBeUndefined();
  const html = new TextDecoder().decode(document.body as Uint8Array);
  const named = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(
    (match) => new URL(match[1]!, "http://k/study/x").pathname,
  );
  expect(named.toSorted()).toEqual([...pages.keys()].filter((path) => !path.includes(":")).toSorted());
  const bytes = [...pages.values()].reduce((sum, page) => sum + page.body.length, 0);
  expect(bytes).toBeLessThan(200_000);
});

const name = browserSkipReason === "" ? "in a browser" : `in a browser (skipped: ${browserSkipReason})`;
const long = "A koala sleeps most of the day, because leaves are slow food. ".repeat(25);

describe.skipIf(browserPath === undefined)(name, () => {
  const folder = temporaryFolder("rating-page");
  let store: Store;
  let study: Study;
  let running: RunningServer;
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    store = await openStore(join(folder, "study.db"));
    const questions = Array.from({ length: 6 }, (_, i) => ({
      id: `s/${i}`,
      set: "s",
      text: `Question ${i}: how long does a koala sleep, and why?`,
    }));
    study = await importStudy(store, {
      title: "Which assistant helps more?",
      questions,
      systems: ["x1", "x2"],
      pairs: [["x1", "x2"]],
      answers: questions.flatMap(({ id }) => [
        {
          question: id,
          system: "x1",
          text: `**Good** answer ${id}\n\n- one\n- two\n\n${long}`,
          finish: "stop",
        },
        {
          question: id,
          system: "x2",
          text: `Poor answer ${id}\n\n\`\`\`py\nsleep(20)\n\`\`\``,
          finish: "stop",
        },
      ]),
      ratings: 1,
      raters: 1,
      goldShare: 0,
      repeatShare: 0,
      seed: 1,
      criteria: [
        {
          name: "correct",
          question: "Which answer is more correct?",
        },
      ],
      minDwellMs: 200,
      votesPerMinute: 100,
    });
    const pages = Object.fromEntries(await loadRatingPages());
    const context = serverContext({ models: new ModelRegistry(), studies: store, requireKey: true, pages });
    running = listen(createServer(context), { context, host: "127.0.0.1", port: 0 });
    browser = await launchBrowser();
    page = await browser.newPage({ viewport: { width: 390, height: 844 } });
    page.setDefaultTimeout(8000);
    page.on("console", (message) => void (message.type() === "error" && complaints.push(message.text())));
    page.on("pageerror", (error) => complaints.push(error.message));
  });
  afterAll(async () => {
    await browser?.close();
    await running?.close({ graceMs: 0 });
    await store?.close();
  });

  const button = (label: string | RegExp) => page.getByRole("button", { name: label });
  const asked = () => page.locator(".asked").innerText();
  const votes = () => exportVotes(store, study.id);
  const shot = async (label: string) => {
    const shots = process.env["KOALA_TEST_SHOTS"];
    if (shots) await page.screenshot({ path: join(shots, `${label}.png`) });
  };
  const fits = () =>
    page.evaluate(
      () => document.documentElement.scrollWidth <= innerWidth && document.body.scrollHeight <= innerHeight,
    );
  const ready = () => page.getByText("Which answer is better?", { exact: true }).waitFor();
  async function looks(label: string): Promise<void> {
    for (const colorScheme of ["light", "dark"] as const)
      for (const [width, height] of [
        [390, 844],
        [1280, 800],
      ] as const) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height });
        await page.waitForTimeout(50);
        expect({ label, width, fits: await fits() }).toEqual({ label, width, fits: true });
        expect((await contrasts(page)).filter(({ ratio }) => ratio < 4.5)).toEqual([]);
        await shot(`${label}-${width}-${colorScheme}`);
      }
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 390, height: 844 });
  }

  test("welcomes, asks for consent, and takes the rater's own code into the address", async () => {
    await page.goto(`${running.url}/study/${openCode(study)}`);
    await page.getByRole("heading", { name: "Which assistant helps more?" }).waitFor();
    await looks("welcome");
    await button("I agree, begin").click();
    await page.locator(".asked").waitFor();
    expect(page.url()).not.toContain(openCode(study));
  });

  test("on a phone takes a vote after both answers were looked at, with buttons for a thumb", async () => {
    await page.getByText("Look at the other answer too").waitFor();
    expect(await button(/better|good|bad/).evaluateAll((all) => all.map((one) => one.ariaPressed))).toEqual(
      Array.from({ length: 4 }, () => "false"),
    );
    const first = await asked();
    // A disabled button is a reason to read, not a place to wait at: hence by force.
    await button("A is better").click({ force: true });
    expect(await votes()).toEqual([]);
    await button("Answer B").click();
    await ready();
    for (const box of await page.locator(".verdict, .tabs button").all())
      expect((await box.boundingBox())!.height).toBeGreaterThanOrEqual(44);
    await looks("task");
    await button("B is better").click();
    await page.waitForFunction((old) => document.querySelector(".asked")?.textContent !== old, first);
    const [vote] = await votes();
    expect(vote!.verdict).not.toBe(vote!.left);
    expect(vote!.dwellMs).toBeGreaterThan(199);
    await page.getByText("1 / 6").waitFor();
  });

  test("goes back to the last vote and corrects it", async () => {
    await button("Back").click();
    await page.getByText("You voted on this").waitFor();
    expect(await button("B is better").getAttribute("aria-pressed")).toBe("true");
    await looks("correct");
    await button("Equally good").click();
    await page.getByText("You voted on this").waitFor({ state: "detached" });
    expect((await votes()).map(({ verdict }) => verdict)).toEqual(["tie"]);
  });

  test("goes on where it stopped after the tab was closed", async () => {
    const before = await asked();
    await page.goto(`${running.url}/study/${openCode(study)}`);
    await page.locator(".asked").waitFor();
    expect(await asked()).toBe(before);
  });

  test("on a desk shows both sides and votes by keyboard, but not while a note is written", async () => {
    await page.setViewportSize({ width: 1280, height: 800 });
    await ready();
    const boxes = await Promise.all(
      ["A", "B"].map((side) => page.getByRole("region", { name: `Answer ${side}` }).boundingBox()),
    );
    expect(boxes[0]!.x + boxes[0]!.width).toBeLessThanOrEqual(boxes[1]!.x);
    expect(Math.abs(boxes[0]!.width - boxes[1]!.width)).toBeLessThan(2);
    await page.getByText("More questions, note, report").click();
    await page.getByRole("textbox", { name: "Note" }).fill("a better note");
    await page.getByRole("radio", { name: "Neither" }).check();
    await looks("details");
    await page.setViewportSize({ width: 1280, height: 800 });
    await button("Report").click();
    await page.getByText("Reported. Thank you.").waitFor();
    const before = await asked();
    await page.keyboard.press("a");
    await page.waitForFunction((old) => document.querySelector(".asked")?.textContent !== old, before);
    const [overall] = (await votes()).filter(({ note }) => note !== null);
    expect(overall).toMatchObject({ verdict: overall!.left, note: "a better note" });
    const correct = (await votes()).find(({ criterion }) => criterion === "correct");
    expect(correct!.verdict).toBe("both_bad");
  });

  test("ends with a code, and tells a screen reader how far it is", async () => {
    for (const key of ["b", "t", "n", "a"]) {
      await ready();
      const before = await asked();
      expect(await page.locator("[role=status].unseen").innerText()).toMatch(/^Comparison \d of 6\.$/);
      await page.keyboard.press(key);
      await page.waitForFunction((old) => document.querySelector(".asked")?.textContent !== old, before);
    }
    await page.getByRole("heading", { name: "Done. Thank you!" }).waitFor();
    await looks("done");
    const real = (await votes()).filter(({ criterion }) => criterion === "overall");
    expect(real).toHaveLength(6);
    expect(real.filter(({ verdict }) => verdict === "tie" || verdict === "both_bad")).toHaveLength(3);
  });

  test("has said nothing on the console", () => expect(complaints).toEqual([]));
});
