/** Chromium for tests of the page, driven by playwright-core; absent on many machines, so its tests say why they skip. */
import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const candidates = [
  process.env["KOALA_TEST_BROWSER"],
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
];

export const browserPath = candidates.find((path) => path !== undefined && existsSync(path));

export const browserSkipReason =
  browserPath === undefined ? "no Chromium is installed (KOALA_TEST_BROWSER may name one)" : "";

export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: browserPath!,
    headless: true,
    // No sandbox: tests often run as root in a container. The rest keeps it from talking to anybody but the test.
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
