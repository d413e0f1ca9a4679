/** The training page in Chromium, over a server whose jobs train nothing: what is shown, pressed and read out. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { createServer } from "../../../../src/server/app.ts";
import { listen, type RunningServer } from "../../../../src/server/listen.ts";
import { linkingTo, loadPages } from "../../../../src/server/web/pages.ts";
import { loadTrainingPages } from "../../../../src/server/web/training/pages.ts";
import { browserPath, browserSkipReason, launchBrowser } from "../../../support/browser.ts";
import { temporaryFolder } from "../../../support/temporary.ts";
import { testServer } from "../../../support/test_server.ts";
import { makeTinyModel } from "../../../support/tiny_model.ts";
import {
  jobUntil,
  trainableTemplate,
  tuningServer,
  type TuningServer,
  uploadTraining,
} from "../../../support/tuning_server.ts";
import { contrasts } from "../contrast.ts";

setDefaultTimeout(30_000);

test("the pages are the chat page's equals: nothing inline, nothing foreign, the same headers", async () => {
  const [chat, training] = [await loadPages(), await loadTrainingPages()];
  const document = training.get("/training")!;
  expect(document.headers["content-security-policy"]).toBe(
    chat.get("/")!.headers["content-security-policy"]!,
  );
  const html = new TextDecoder().decode(document.body as Uint8Array);
  expect(html).not.toMatch(/<script(?![^>]*\ssrc=)|<style|\sstyle=|https?:/);
  const named = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(
    (match) => new URL(match[1]!, "http://k/training").pathname,
  );
  expect(named.toSorted()).toEqual([...training.keys()].filter((path) => path !== "/training").toSorted());
  const bytes = [...training.values()].reduce((sum, page) => sum + page.body.length, 0);
  expect(bytes).toBeLessThan(100_000);
});

const name = browserSkipReason === "" ? "in a browser" : `in a browser (skipped: ${browserSkipReason})`;

describe.skipIf(browserPath === undefined)(name, () => {
  const folder = temporaryFolder("training-page");
  let server: TuningServer;
  let running: RunningServer;
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    const model = await makeTinyModel(join(folder, "base"), { chatTemplate: trainableTemplate });
    server = await tuningServer({
      database: join(folder, "k.db"),
      dataDirectory: join(folder, "data"),
      model,
    });
    const chat = await loadPages();
    const linked = ["/", linkingTo("/training", chat.get("/")!)] as const;
    server.context.pages = Object.fromEntries([...chat, linked, ...(await loadTrainingPages())]);
    running = listen(createServer(server.context), { context: server.context, host: "127.0.0.1", port: 0 });
    browser = await launchBrowser();
    page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
    page.setDefaultTimeout(8000);
    page.on("console", (message) => void (message.type() === "error" && complaints.push(message.text())));
    page.on("pageerror", (error) => complaints.push(error.message));
  });
  afterAll(async () => {
    await browser?.close();
    await running?.close({ graceMs: 0 });
    await server?.close();
  });

  const create = async (suffix: string, metadata: Record<string, string>) => {
    const { id: training_file } = await uploadTraining(server.client);
    return server.client.fineTuning.jobs.create({ model: "tiny", training_file, suffix, metadata });
  };
  /** Whether the page scrolls sideways. */
  const overflows = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);

  test("is linked from the chat page, which says nothing of it where there is none", async () => {
    await page.goto(`${running.url}/`);
    await page.getByRole("link", { name: "Training" }).click();
    await page.waitForURL(`${running.url}/training`);
    const { context } = testServer();
    context.pages = Object.fromEntries(await loadPages());
    const plain = listen(createServer(context), { context, host: "127.0.0.1", port: 0 });
    await page.goto(`${plain.url}/`);
    await page.getByRole("button", { name: "Settings" }).waitFor();
    expect(await page.getByRole("link", { name: "Training" }).count()).toBe(0);
    await plain.close({ graceMs: 0 });
  });

  test("shows how to begin, then a job with its charts, table, checkpoints and samples", async () => {
    await page.goto(`${running.url}/training`);
    await page.getByText("No job yet").waitFor();
    const job = await create("first", { steps: "20", epochs: "2" });
    await jobUntil(server.client, job.id);
    await page.getByRole("heading", { name: "first" }).waitFor();
    await page.locator("header .status.succeeded").waitFor();
    const loss = page.getByRole("img", { name: /^Loss: Training from 2 at step 1 to 0\.1 at step 20$/ });
    await loss.waitFor();
    // The pointer and the arrow keys read the line out.
    const said = page.locator("figure", { hasText: "Loss" }).first().locator(".figures");
    expect(await said.innerText()).toBe("0.1 at step 20");
    await loss.focus();
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowLeft");
    expect(await said.innerText()).toBe("0.1111 at step 18");
    await page.keyboard.press("Tab");
    const box = (await loss.boundingBox())!;
    await page.mouse.move(box.x + box.width / 2, box.y + 50);
    expect(await said.innerText()).toMatch(/at step (8|9|10|11|12)$/);
    await page.getByText("Figures as a table").click();
    expect(await page.locator("table", { hasText: "Gradient norm" }).locator("tbody tr").count()).toBe(20);
    expect(await page.locator("table", { hasText: "Validation loss" }).innerText()).toContain(
      ":ckpt-step-10",
    );
    await page.getByText("What is 0 and 0?").waitFor();
    await page.getByText("The job has successfully completed").waitFor();
    expect(await overflows()).toBe(false);
  });

  test("pauses, resumes and cancels, the last only after asking", async () => {
    await create("second", { steps: "2000", step_ms: "10", epochs: "1" });
    const status = page.locator("article header .status");
    await page.getByRole("button", { name: /second/ }).click();
    await page.locator("article header .status.running").waitFor();
    await page.getByText(/step \d+ of 2,000, about/).waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.locator("article header .status.paused").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.locator("article header .status.running").waitFor();
    await page.getByRole("button", { name: "Cancel", exact: true }).click();
    await page.getByRole("button", { name: "Keep it" }).click();
    expect(await status.innerText()).toBe("running");
    await page.getByRole("button", { name: "Cancel", exact: true }).click();
    await page.getByRole("button", { name: "Cancel the job" }).click();
    await page.locator("article header .status.cancelled").waitFor();
    expect(await page.getByRole("button", { name: "Pause" }).count()).toBe(0);
  });

  test("tells why a job failed, is readable in both themes, and fits a phone", async () => {
    const job = await create("third", { fail_at: "2" });
    await jobUntil(server.client, job.id);
    await page.goto(`${running.url}/training#${job.id}`);
    await page.getByRole("alert").getByText("The loss of step 2 is not what it should be.").waitFor();
    for (const colorScheme of ["light", "dark"] as const)
      for (const width of [390, 1200]) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height: 844 });
        expect(await overflows()).toBe(false);
        expect((await contrasts(page)).filter(({ ratio }) => ratio < 4.5)).toEqual([]);
      }
  });

  test("asks for the key where one is needed", async () => {
    const { apiKey } = await import("../../../../src/server/auth.ts");
    server.context.apiKeys = [apiKey("secret")];
    await page.reload();
    await page.getByText("wants an API key").waitFor();
    const complained = complaints.splice(0);
    expect(complained.every((text) => text.includes("401"))).toBe(true);
    await page.getByRole("textbox").fill("secret");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "third" }).waitFor();
    server.context.apiKeys = [];
  });

  test("has said nothing on the console", () => expect(complaints).toEqual([]));
});
