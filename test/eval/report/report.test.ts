/** The report: its figures, the same bytes twice, hostile text, and the page in a browser. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { resultsCsv } from "../../../src/eval/report/csv.ts";
import { reportPage } from "../../../src/eval/report/page.ts";
import { computeResults } from "../../../src/eval/report/results.ts";
import { writeReport } from "../../../src/eval/report/write.ts";
import { browserPath, browserSkipReason, launchBrowser } from "../../support/browser.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { hostile, studyFixture } from "../study_fixture.ts";

const data = studyFixture();
const results = computeResults(data, { draws: 400 });
const page = reportPage(results, data);

test("the planted preference is found, its interval holds it, and equal systems stay undecided", () => {
  const [strong, equal] = results.headline.filter(({ set }) => set === "all");
  // 0.7 is planted with the random clickers among the raters.
  const [low, high] = results.headlineAllRaters!.find(({ set }) => set === "all")!.rate.scoreInterval!;
  expect(low < 0.7 && 0.7 < high).toBe(true);
  expect(strong!.rate.scoreInterval![0]).toBeGreaterThan(0.5);
  expect(strong!.holmP).toBeLessThan(0.01);
  const [equalLow, equalHigh] = equal!.rate.scoreInterval!;
  expect(equalLow < 0.5 && 0.5 < equalHigh).toBe(true);
});

test("clickers are excluded, and the analysis of all raters stands beside", () => {
  const excluded = results.raters.filter((rater) => rater.excluded.length > 0);
  expect(excluded.length).toBeGreaterThan(0);
  const votes = (rows: typeof results.headline) => rows.reduce((sum, { rate }) => sum + rate.votes, 0);
  expect(votes(results.headlineAllRaters!)).toBe(2 * 60 * 2 * 3);
  expect(votes(results.headline)).toBeLessThan(votes(results.headlineAllRaters!));
});

test("wins, ties and losses sum to one, and score and exceeds-or-ties follow from them", () => {
  for (const { rate } of results.headline) {
    expect(rate.win + rate.tie + rate.loss).toBeCloseTo(1, 12);
    expect(rate.score).toBeCloseTo(rate.win + rate.tie / 2, 12);
    expect(rate.exceedsOrTies).toBeCloseTo(rate.win + rate.tie, 12);
  }
});

test("a failed judge call is counted and gives no vote", () => {
  const [judge] = results.judges;
  expect(judge!.quality).toMatchObject({ calls: 120, errors: 2, swapped: 59, consistent: 59 });
  expect(judge!.headline.find(({ set }) => set === "all")!.rate.prompts).toBe(59);
});

test("the same study gives the same bytes, another seed other intervals", async () => {
  const write = async (name: string) => {
    const folder = temporaryFolder(name);
    const fresh = studyFixture();
    const paths = await writeReport(computeResults(fresh, { draws: 400 }), fresh, folder);
    return paths.map((path) => readFileSync(path, "utf8"));
  };
  expect(await write("report-1")).toEqual(await write("report-2"));
  const other = computeResults({ ...data, study: { ...data.study, seed: 2 } }, { draws: 400 });
  expect(other.headline[0]!.rate.score).toBe(results.headline[0]!.rate.score);
  expect(other.headline[0]!.rate.scoreInterval).not.toEqual(results.headline[0]!.rate.scoreInterval);
});

test("all ten parts are there, and no part asks the network", () => {
  const parts = [...page.matchAll(/<h2 id="\w+">(\d+)\./g)].map((match) => Number(match[1]));
  expect(parts).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(page).not.toContain("<script");
  expect(page).not.toContain("<img");
  expect(page.replaceAll("&lt;img src=&quot;http:", "")).not.toMatch(/(src|href)=|url\(|@import/);
  expect(page).not.toMatch(/NaN|undefined|Infinity/);
});

test("results.csv has as many cells as columns in every line", () => {
  const [head, ...lines] = resultsCsv(results).trimEnd().split("\r\n");
  const columns = head!.split(",").length;
  // Rows: two pairs times three sets for people, twice; one pair times three sets for the judge.
  expect(lines.length).toBe(6 + 6 + 3);
  for (const line of lines) expect(line.split(",").length).toBe(columns);
});

test("a study without votes has a report that says so", () => {
  const empty = { ...data, votes: [], judgements: [] };
  const text = reportPage(computeResults(empty, { draws: 100 }), empty);
  expect(text).toContain("There are no votes to analyse.");
  expect(text).toContain("The comparison graph is disconnected");
  expect(text).not.toMatch(/NaN|undefined|Infinity/);
});

describe.skipIf(browserPath === undefined)(`in a browser ${browserSkipReason}`, () => {
  test("text of answers stays text, nothing is fetched, and no width scrolls sideways", async () => {
    const folder = temporaryFolder("report-page");
    await writeReport(results, data, folder);
    const browser = await launchBrowser();
    try {
      for (const width of [1200, 390]) {
        for (const colorScheme of ["light", "dark"] as const) {
          const tab = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
          const asked: string[] = [];
          const complaints: string[] = [];
          tab.on("request", (request) => asked.push(request.url()));
          tab.on("console", (message) => complaints.push(message.text()));
          await tab.goto(pathToFileURL(join(folder, "index.html")).href);
          const seen = await tab.evaluate(() => ({
            title: document.title,
            answer: document.querySelector(".answers .text-block")!.textContent,
            wide: document.documentElement.scrollWidth,
            scripts: document.querySelectorAll("script, img").length,
            // Both themes are real: ink differs from paper.
            colours: [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor],
          }));
          expect(seen.title).toBe(data.study.title);
          expect(seen.answer).toStartWith(hostile);
          expect(seen.scripts).toBe(0);
          expect(seen.wide).toBe(width);
          expect(seen.colours[1]).toBe(colorScheme === "light" ? "rgb(251, 250, 247)" : "rgb(22, 26, 25)");
          expect(asked.length).toBe(1);
          expect(complaints).toEqual([]);
          await tab.close();
        }
      }
    } finally {
      await browser.close();
    }
  });
});
