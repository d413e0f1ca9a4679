/** The arena page in Chromium over fake engines: ask, watch both, vote, learn the names, see the standings. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import type { RunningServer } from "../../../../src/server/listen.ts";
import { loadArenaPages } from "../../../../src/server/web/arena/pages.ts";
import { openStore, type Store } from "../../../../src/store/store.ts";
import { browserPath, browserSkipReason, launchBrowser } from "../../../support/browser.ts";
import { temporaryFolder } from "../../../support/temporary.ts";
import { listeningServer } from "../../../support/test_server.ts";
import { contrasts } from "../contrast.ts";

setDefaultTimeout(30_000);
const name = browserSkipReason === "" ? "in a browser" : `in a browser (skipped: ${browserSkipReason})`;

describe.skipIf(browserPath === undefined)(name, () => {
  const folder = temporaryFolder("arena-page");
  let store: Store;
  let running: RunningServer;
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    store = await openStore(join(folder, "arena.db"));
    const pages = Object.fromEntries(await loadArenaPages());
    const engine = { script: () => "Leaves, **mostly**.\n\n- and sleep" };
    const model = { id: "wombat-one", aliases: [] };
    const server = listeningServer({ arena: store, pages, engine, model });
    server.context.models.add({ ...server.model, id: "numbat-two" });
    running = server.running;
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

  async function looks(label: string): Promise<void> {
    const before = page.viewportSize()!;
    for (const colorScheme of ["light", "dark"] as const)
      for (const [width, height] of [
        [390, 844],
        [1280, 800],
      ] as const) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height });
        await page.waitForTimeout(50);
        expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
        expect((await contrasts(page)).filter(({ ratio }) => ratio < 4.5)).toEqual([]);
        const shots = process.env["KOALA_TEST_SHOTS"];
        if (shots) await page.screenshot({ path: join(shots, `arena-${label}-${width}-${colorScheme}.png`) });
      }
    await page.setViewportSize(before);
  }
  const button = (label: string) => page.getByRole("button", { name: label, exact: true });

  test("asks two models on a phone, and tells their names after the vote alone", async () => {
    await page.goto(`${running.url}/arena`);
    await page.getByText("Nobody has voted yet.").waitFor();
    await page.getByRole("textbox", { name: "Your question" }).fill("Who are you?");
    await button("Ask both").click();
    await page.getByText("Look at the other answer too").waitFor();
    expect(await page.content()).not.toMatch(/wombat|numbat/);
    await button("Answer B").click();
    await page.getByText("Which answer is better?").waitFor();
    await looks("vote");
    await page.getByRole("button", { name: "B is better" }).click();
    await page.getByText(/^A was (wombat-one|numbat-two), B was (wombat-one|numbat-two)\.$/).waitFor();
    await looks("names");
  });

  test("shows the standings, and votes by keyboard on a desk", async () => {
    await button("New round").click();
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.getByRole("table").waitFor();
    expect(await page.getByRole("table").innerText()).toMatch(
      /wombat-one[\s\S]*numbat-two|numbat-two[\s\S]*wombat-one/,
    );
    await looks("standings");
    await page.getByRole("textbox", { name: "Your question" }).fill("And now?");
    await page.keyboard.press("Enter");
    await page.getByText("Which answer is better?").waitFor();
    await page.keyboard.press("t");
    await page.getByText(/^A was/).waitFor();
    await page.getByText("Report", { exact: true }).first().click();
    await button("Report").click();
    await page.getByText("Reported. Thank you.").waitFor();
  });

  test("has said nothing on the console", () => expect(complaints).toEqual([]));
});
