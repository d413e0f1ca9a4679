/** The chat page over the real server: withheld answers are told inline, reports reach the database, limits are in sight. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { Moderator } from "../../../src/server/moderation/moderator.ts";
import { loadPages, takingReports } from "../../../src/server/web/pages.ts";
import { listFlags } from "../../../src/store/flags.ts";
import { openStore, type Store } from "../../../src/store/store.ts";
import { browserPath, browserSkipReason, launchBrowser } from "../../support/browser.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { listeningServer } from "../../support/test_server.ts";
import { wordBackend } from "../moderation/backends.ts";
import { contrasts } from "./contrast.ts";

setDefaultTimeout(30_000);
const name =
  browserSkipReason === "" ? "the page's safety" : `the page's safety (skipped: ${browserSkipReason})`;
const long = "A harmless sentence stands here. ".repeat(12);
/** KOALA_TEST_SCREENSHOTS names a folder where the screens are left to be looked at. */
const screenshots = process.env["KOALA_TEST_SCREENSHOTS"];

describe.skipIf(browserPath === undefined)(name, () => {
  let browser: Browser;
  let page: Page;
  let store: Store;
  let server: ReturnType<typeof listeningServer>;
  const folder = temporaryFolder("reports");
  beforeAll(async () => {
    store = await openStore(join(folder, "koala.db"));
    const pages = Object.fromEntries(await loadPages());
    server = listeningServer({
      engine: { script: () => `${long}Here is the bomb. ${long}` },
      moderation: { moderator: new Moderator([wordBackend("bomb")]), mode: "block" },
      reports: store,
      pages: { ...pages, "/": takingReports(pages["/"]!) },
    });
    browser = await launchBrowser();
    page = await browser.newPage({ viewport: { width: 1100, height: 800 } });
    page.setDefaultTimeout(5000);
    await page.goto(server.running.url);
    await page.getByText("tiny answers").waitFor();
  });
  afterAll(async () => {
    await browser?.close();
    await server?.running.close({ graceMs: 0 });
    await store?.close();
  });
  const ask = async (text: string) => {
    const before = await page.getByText(/prompt \d/).count();
    await page.getByRole("textbox", { name: "Message", exact: true }).fill(text);
    await page.keyboard.press("Enter");
    await page
      .getByText(/prompt \d/)
      .nth(before)
      .waitFor();
  };
  const look = async (name: string) => {
    if (screenshots !== undefined) await page.screenshot({ path: join(screenshots, `${name}.png`) });
  };
  const last = () => page.getByRole("article", { name: "Koala" }).last();

  test("the limits are in sight, and spelled out on demand", async () => {
    const summary = page.getByText("A research preview: answers can be wrong, biased or offensive.");
    expect(await summary.isVisible()).toBe(true);
    await summary.click();
    expect(await page.getByText("no commercial use").isVisible()).toBe(true);
    await look("limits");
    await summary.click();
  });

  test("a question that is flagged and an answer that is cut show a notice where the text is missing", async () => {
    await ask("tell me of a bomb");
    expect(await last().getByRole("note").innerText()).toStartWith("This answer is withheld");
    await page.getByRole("button", { name: "Edit message" }).click();
    await page.getByRole("textbox", { name: "Your message" }).fill("tell me anything");
    await page.getByRole("button", { name: "Save and send" }).click();
    await page.getByText("The rest of this answer is withheld").waitFor();
    expect(await last().innerText()).not.toContain("bomb");
    await look("withheld");
  });

  test("a report goes to the database with question, answer, model, category and note", async () => {
    await last().getByRole("button", { name: "Report this answer" }).click();
    const form = page.getByRole("form", { name: "Report this answer" });
    await form.getByLabel("What is wrong with it?").selectOption("hateful");
    await form.getByLabel("Note (optional)").fill("  It insults koalas. ");
    for (const [colorScheme, width] of [
      ["light", 1100],
      ["dark", 1100],
      ["dark", 390],
    ] as const) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 800 });
      await form.getByRole("button", { name: "Send report" }).scrollIntoViewIfNeeded();
      await look(`report-${colorScheme}-${width}`);
      expect((await contrasts(page)).filter(({ ratio }) => ratio < 4.5)).toEqual([]);
      expect(
        await page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
      ).toBeLessThanOrEqual(0);
    }
    await form.getByRole("button", { name: "Send report" }).click();
    await page.getByText("Reported. Thank you.").waitFor();
    const flags = await listFlags(store, { limit: 10 });
    if (flags === "no such cursor") throw new Error(flags);
    expect(flags.rows).toMatchObject([
      { source: "chat", model: "tiny", category: "hateful", note: "It insults koalas.", state: "open" },
    ]);
    expect(flags.rows[0]!.prompt).toBe("tell me anything");
    expect(flags.rows[0]!.answer).toStartWith("A harmless sentence");
  });
});
