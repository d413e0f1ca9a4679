/** The page in Chromium, against a stand-in server: what a person does with mouse and keyboard, and what must not happen. */
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { readEvents } from "../../../src/server/web/sse.ts";
import { browserPath, browserSkipReason, launchBrowser } from "../../support/browser.ts";
import { contrasts } from "./contrast.ts";
import { type StandIn, startStandIn } from "./stand_in.ts";

// Longer than the page waits for anything: a test that times out takes the browser of the others with it.
setDefaultTimeout(30_000);

const name =
  browserSkipReason === ""
    ? "the page in a browser"
    : `the page in a browser (skipped: ${browserSkipReason})`;

describe.skipIf(browserPath === undefined)(name, () => {
  let browser: Browser;
  let server: StandIn;
  let context: BrowserContext;
  let page: Page;
  let complaints: string[];
  /** What a failing test expects the console to say. */
  let expectedComplaint: RegExp | null;

  beforeAll(async () => {
    [browser, server] = await Promise.all([launchBrowser(), startStandIn()]);
    context = await browser.newContext();
    context.setDefaultTimeout(5000);
    page = await context.newPage();
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url)) complaints.push(`foreign request: ${request.url()}`);
    });
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });
  beforeEach(async () => {
    Object.assign(server, { apiKey: "", models: ["koala-7b"], aborted: 0, requests: [] });
    expectedComplaint = null;
    complaints = [];
    await Promise.all([
      page.setViewportSize({ width: 1280, height: 800 }),
      page.emulateMedia({ colorScheme: "light" }),
    ]);
    await page.goto(server.url);
    await page.getByText("koala-7b answers").waitFor();
  });
  afterEach(async () => {
    await page.unrouteAll();
    // A page still open could write its chats again. Another page of the same server keeps the browser's process.
    await page.goto(`${server.url}blank`);
    await page.evaluate(() => (localStorage.clear(), sessionStorage.clear()));
    expect(complaints.filter((text) => !expectedComplaint?.test(text))).toEqual([]);
  });

  const composer = () => page.getByRole("textbox", { name: "Message", exact: true });
  const button = (label: string | RegExp) => page.getByRole("button", { name: label });
  const answer = (index = -1) => page.getByRole("article", { name: "Koala" }).nth(index);
  const figures = (index = -1) => page.getByText(/\d tokens?\b.*prompt \d/).nth(index);
  const send = async (text: string) => {
    await composer().fill(text);
    await composer().press("Enter");
  };
  const ask = async (text: string) => {
    const before = await page.getByText(/prompt \d/).count();
    await send(text);
    await figures(before).waitFor();
  };
  const sent = (index = -1) => server.requests.at(index)!;

  test("a question streams an answer with its figures, and the next one carries the dialogue", async () => {
    await ask("hello koala");
    expect(await answer().innerText()).toStartWith("You said: hello koala, and that is all.");
    expect(await figures().innerText()).toMatch(
      /^6 tokens · [\d.,]+ tokens\/s · first after \d+\.\d\d s · prompt 12$/,
    );
    expect(sent()).toEqual({
      model: "koala-7b",
      messages: [{ role: "user", content: "hello koala" }],
      stream: true,
      stream_options: { include_usage: true },
    });
    await ask("and again");
    expect(sent().messages?.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
  });

  test("stopping ends the request and keeps what was said", async () => {
    await send("slow please");
    await page.getByText("word5 ").waitFor();
    await button("Stop").click();
    await page.getByText("stopped").waitFor();
    await page.waitForTimeout(100);
    expect(server.aborted).toBe(1);
    const text = await answer().innerText();
    expect(text).toStartWith("word0 word1");
    expect(text).not.toContain("word399");
    expect(await button("Send").count()).toBe(1);
  });

  test("answering again and editing drop what came after", async () => {
    await ask("one");
    await ask("two");
    await button("Answer again").last().click();
    await page.waitForFunction(() => document.querySelector('[aria-busy="true"]') === null);
    expect(
      sent()
        .messages?.map(({ content }) => content)
        .filter((_, index) => index % 2 === 0),
    ).toEqual(["one", "two"]);
    await button("Edit message").first().click();
    await page.getByRole("textbox", { name: "Your message" }).fill("eins");
    await button("Save and send").click();
    await page.getByText("You said: eins").waitFor();
    expect(sent().messages).toEqual([{ role: "user", content: "eins" }]);
    expect(await page.getByRole("article").count()).toBe(2);
  });

  test("markdown becomes elements, and code can be copied", async () => {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await ask("markdown");
    expect(await answer().locator("h2").innerText()).toBe("Eucalyptus");
    expect(await answer().locator("ol > li").count()).toBe(2);
    expect(await answer().locator("table tr").count()).toBe(3);
    expect(await answer().locator("pre code").innerText()).toContain(
      "return leaves_g * 8.1  # a rough figure",
    );
    const link = answer().getByRole("link", { name: "few species" });
    expect(await link.getAttribute("rel")).toContain("noopener");
    await button("Copy code").click();
    await button("Copied").waitFor();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toStartWith("def energy(");
  });

  test("a hostile answer is text: no script, no handler, no foreign image", async () => {
    await ask("hostile");
    expect(await answer().innerText()).toContain("<script>window.broken = 1</script>");
    const found = await page.evaluate(() => {
      const prose = document.querySelector(".prose")!;
      const attributes = [...prose.querySelectorAll("*")].flatMap((element) => element.getAttributeNames());
      return {
        broken: (window as unknown as { broken?: number }).broken,
        elements: prose.querySelectorAll("script, img, iframe, svg:not(.icon), form, object, style").length,
        handlers: attributes.filter((attribute) => attribute.startsWith("on") || attribute === "style"),
        links: [...prose.querySelectorAll("a")].map((link) => link.getAttribute("href")),
      };
    });
    expect(found).toEqual({
      broken: undefined,
      elements: 0,
      handlers: [],
      links: [null, "https://example.org/spy.png"],
    });
  });

  test("the policy blocks script and markup that bypass the page's code", async () => {
    expectedComplaint = /Content Security Policy|TrustedHTML|Trusted Type/;
    const ran = await page.evaluate(async () => {
      const script = document.createElement("div");
      try {
        script.innerHTML = '<img src="x" onerror="window.broken = 1">';
        document.body.append(script);
      } catch {
        return "refused";
      }
      await new Promise((done) => setTimeout(done, 50));
      return (window as unknown as { broken?: number }).broken ?? "harmless";
    });
    expect(ran).toBe("refused");
    expect(complaints.length).toBeGreaterThan(0);
  });

  test("errors are sentences with a way to try again", async () => {
    expectedComplaint = /status of (429|503)/;
    await send("busy now");
    await page
      .getByText("The server is busy. 64 requests are waiting already. Try again in 2 seconds.")
      .waitFor();
    await button("Try again").click();
    await page.getByText("You said: busy now").waitFor();
    await send("restart now");
    await page.getByText("The model is not ready. The engine is restarting after a failure.").waitFor();
    await button("Try again").click();
    await page.getByText("You said: restart now").waitFor();
    await send("break it");
    await page.getByText("The answer broke off. The engine stopped: out of pages.").waitFor();
    expect(await answer().innerText()).toContain("You said: break it");
    await send("cut it");
    await page.getByText("The connection ended before the answer was complete.").waitFor();
    await ask("long story");
    expect(await figures().innerText()).toContain("cut at the length limit");
  });

  test("a server that is gone is said to be gone", async () => {
    expectedComplaint = /ERR_|Failed to load/;
    await page.route("**/v1/chat/completions", (route) => route.abort());
    await send("anybody there?");
    await page.getByText("The server cannot be reached. Check that koala serve is still running.").waitFor();
  });

  test("a server with keys asks for one, and keeps it for the tab only", async () => {
    expectedComplaint = /status of 401/;
    server.apiKey = "sk-koala";
    await page.reload();
    await page.getByText("This server wants an API key.").waitFor();
    await page.getByLabel("API key").fill("sk-koala");
    await button("Use this key").click();
    await page.getByText("koala-7b answers").waitFor();
    await ask("hello");
    const kept = await page.evaluate(() => [
      JSON.stringify({ ...localStorage }).includes("sk-koala"),
      sessionStorage.length,
    ]);
    expect(kept).toEqual([false, 1]);
    server.apiKey = "sk-newer"; // revoked in the middle of a chat: the question is asked again with the new key
    await send("who goes there");
    await page.getByLabel("API key").fill("sk-newer");
    await page.keyboard.press("Enter");
    await page.getByText("You said: who goes there").waitFor();
  });

  test("a base model says so and continues text in completion mode", async () => {
    expectedComplaint = /status of 400/;
    server.models = ["base-model"];
    await page.reload();
    await page.getByText("base-model answers").waitFor();
    await send("Once upon a time");
    await page.getByText("has no chat template").waitFor();
    await button("Open completion mode").click();
    const text = page.getByRole("textbox", { name: "Text" });
    expect(await text.inputValue()).toBe("Once upon a time");
    await button("Continue the text").click();
    await figures().waitFor();
    expect(await text.inputValue()).toBe("Once upon a timeYou said: Once upon a time, and that is all.");
    expect(sent()).toMatchObject({ model: "base-model", prompt: "Once upon a time", max_tokens: 128 });
    await button("Take back what the model wrote").click();
    expect(await text.inputValue()).toBe("Once upon a time");
  });

  test("a model that is known to have no chat template offers completion mode at once", async () => {
    server.models = ["text-only"];
    await page.reload();
    await page.getByRole("heading", { name: "text-only continues text" }).waitFor();
    await button("Open completion mode").click();
    expect(await page.getByRole("textbox", { name: "Text" }).inputValue()).toBe("");
  });

  test("settings are sent, wrong ones are refused before sending", async () => {
    await button("Settings").click();
    await page.getByLabel("System prompt").fill("You are a koala.");
    await page.getByLabel("Temperature").fill("0,5");
    await page.getByLabel("Top k").fill("40");
    await page.getByLabel("Stop strings").fill("USER:\n\\n\\n");
    await ask("hi");
    expect(sent()).toMatchObject({ temperature: 0.5, top_k: 40, stop: ["USER:", "\n\n"] });
    expect(sent().messages?.[0]).toEqual({ role: "system", content: "You are a koala." });
    await page.getByLabel("Temperature").fill("7");
    await page.getByRole("alert").getByText("Temperature is 7, but must be a number from 0 to 2.").waitFor();
    expect(await button("Answer again").isDisabled()).toBe(true);
    await send("not sent");
    expect(server.requests).toHaveLength(1);
  });

  test("chats survive a reload, can be opened and deleted", async () => {
    await ask("first chat");
    await button("New chat").click();
    await ask("second chat");
    await page.reload();
    const chats = page.getByRole("navigation", { name: "Chats" });
    expect(await chats.getByRole("listitem").allInnerTexts()).toEqual(["second chat", "first chat"]);
    await chats.getByRole("button", { name: "first chat", exact: true }).click();
    await page.getByText("You said: first chat").waitFor();
    page.once("dialog", (dialog) => void dialog.accept());
    await chats.getByRole("button", { name: "Delete chat: first chat" }).click();
    await page.getByText("koala-7b answers").waitFor();
    expect(await chats.getByRole("listitem").allInnerTexts()).toEqual(["second chat"]);
  });

  test("the keyboard alone is enough, and the focus can be seen", async () => {
    const focused = () =>
      page.evaluate(
        () => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent,
      );
    const ringed = () =>
      page.evaluate(() => getComputedStyle(document.activeElement!).outlineStyle !== "none");
    expect(await focused()).toBe("Message");
    await page.keyboard.type("slow one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("more");
    await page.keyboard.press("Enter");
    await page.getByText("word3 ").waitFor();
    expect(sent().messages).toEqual([{ role: "user", content: "slow one\nmore" }]);
    await page.keyboard.press("Escape");
    await page.getByText("stopped").waitFor();
    expect(await focused()).toBe("Message");
    const seen: string[] = [];
    for (let steps = 0; steps < 30 && !(seen.length > 3 && seen.at(-1) === "Message"); steps++) {
      await page.keyboard.press("Shift+Tab");
      const label = await focused();
      if (
        label !== "Message" &&
        label !== null &&
        (await page.evaluate(() => document.activeElement !== document.body))
      )
        expect({ label, ringed: await ringed() }).toEqual({ label, ringed: true });
      seen.push(label ?? "");
    }
    for (const label of ["Answer again", "Edit message", "Messages", "New chat", "Settings", "Model"])
      expect(seen).toContain(label);
  });

  test("a phone's width needs no sideways scrolling; chats and settings are dialogs that Esc closes", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    await ask("markdown");
    for (const label of ["Chats", "Settings"]) {
      await button(label).click();
      const dialog = page.getByRole("dialog", { name: label });
      await dialog.waitFor();
      const box = (await dialog.boundingBox())!;
      expect(box.x >= 0 && box.x + box.width <= 360).toBe(true);
      await page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
    }
    const wide = await page.evaluate(() =>
      [...document.querySelectorAll("body *")]
        .filter(
          (element) =>
            !element.closest("pre, .scroll, .unseen") &&
            element.getBoundingClientRect().right > innerWidth + 0.5,
        )
        .map((element) => element.outerHTML.slice(0, 80)),
    );
    expect(wide).toEqual([]);
  });

  test.each(["light", "dark"] as const)(
    "in the %s theme every text has a contrast of 4.5 or more",
    async (scheme) => {
      expectedComplaint = /status of 429/;
      await page.emulateMedia({ colorScheme: scheme });
      await ask("markdown");
      await send(`busy ${scheme}`);
      await page.getByRole("alert").waitFor();
      await button("Settings").click();
      await page.getByLabel("Top p").fill("3");
      await page.getByText("Top p is 3").first().waitFor();
      const measured = await contrasts(page);
      expect(measured.length).toBeGreaterThan(40);
      expect(measured.filter(({ ratio }) => ratio < 4.5)).toEqual([]);
      const ground = measured.find(({ text }) => text === "Eucalyptus")!;
      expect(ground.dark).toBe(scheme === "dark");
    },
  );

  test("the theme can be switched against the system's, and stays switched", async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await button("Switch to the dark theme").click();
    await button("Switch to the light theme").waitFor();
    const dark = await ground();
    expect(dark).not.toBe(light);
    await page.reload();
    await button("Switch to the light theme").waitFor();
    expect(await ground()).toBe(dark);
    await button("Switch to the light theme").click(); // and back again it follows the system
    expect(await ground()).toBe(light);
    await page.emulateMedia({ colorScheme: "dark" });
    await button("Switch to the light theme").waitFor();
    expect(await ground()).toBe(dark);
  });

  test("event streams are read as this browser reads them", async () => {
    const parts = [
      "data: a",
      "data:b",
      "data",
      ": c",
      "id: 1",
      "\n",
      "\n\n",
      "\r\n",
      "\r\n\r\n",
      "x",
      " ",
      ":",
      "é",
    ];
    let state = 7;
    const random = (limit: number) => (
      (state = (state * 1103515245 + 12345) % 2 ** 31),
      Math.floor((state / 2 ** 31) * limit)
    );
    const streams = Array.from({ length: 60 }, () =>
      Array.from({ length: 1 + random(12) }, () => parts[random(parts.length)]).join(""),
    );
    await page.route("**/stream/*", (route) =>
      route.fulfill({
        contentType: "text/event-stream",
        body: streams[Number(route.request().url().split("/").at(-1))]!,
      }),
    );
    const expected = await page.evaluate(
      (count) =>
        Promise.all(
          Array.from({ length: count }, (_, index) => {
            const source = new EventSource(`/stream/${index}`);
            const events: string[] = [];
            source.onmessage = (event) => events.push(event.data);
            return new Promise<string[]>((done) => (source.onerror = () => (source.close(), done(events))));
          }),
        ),
      streams.length,
    );
    const ours = await Promise.all(
      streams.map((text) => Array.fromAsync(readEvents(new Blob([text]).stream()))),
    );
    expect(ours).toEqual(expected);
  });
});
