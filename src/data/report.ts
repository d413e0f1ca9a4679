/** What is in a data set: verdicts, tokens, lengths and lint findings; counted while it is read, shown as a table. */
import { lintNames, lints, reportedOnly, type Lint } from "./lints.ts";

export interface Finding {
  lint: Lint;
  count: number;
  /** Neither allowed nor only reported. */
  refused: boolean;
  /** The first places: "file line n", or a figure. */
  examples: string[];
}

export interface Reason {
  verdict: "repaired" | "dropped";
  reason: string;
  count: number;
  /** Where it was first met. */
  first: string;
}

export interface DatasetReport {
  records: number;
  verdicts: { ok: number; repaired: number; dropped: number };
  reasons: Reason[];
  documents: number;
  tokens: number;
  trainedTokens: number;
  longest: number;
  /** Documents of at most `upTo` tokens, and more than the entry before. */
  histogram: { upTo: number; documents: number }[];
  findings: Finding[];
  refused: boolean;
}

const examplesMax = 5;
const reasonsMax = 50;

/** What is said of data of which no document is kept. */
const nothingLeft = "no document is left";

export class ReportBuilder {
  private readonly verdicts = { ok: 0, repaired: 0, dropped: 0 };
  private readonly reasons = new Map<string, Reason>();
  private readonly findings = new Map<Lint, { count: number; examples: string[] }>();
  private readonly buckets: number[] = [];
  private documents = 0;
  private tokens = 0;
  private trainedTokens = 0;
  private longest = 0;

  constructor(
    private readonly allowed: ReadonlySet<string>,
    /** Share of trained tokens below which the data set is refused. */
    private readonly trainedShareMin: number,
  ) {}

  verdict(verdict: "ok" | "repaired" | "dropped", place: string, reason = ""): void {
    this.verdicts[verdict]++;
    if (verdict === "ok") return;
    if (verdict === "dropped") this.finding("dropped", `${place}: ${reason}`);
    const key = `${verdict} ${reason}`;
    const known = this.reasons.get(key);
    if (known) known.count++;
    else if (this.reasons.size < reasonsMax)
      this.reasons.set(key, { verdict, reason, count: 1, first: place });
  }

  finding(lint: Lint, place: string): void {
    const found = this.findings.get(lint) ?? { count: 0, examples: [] };
    found.count++;
    if (found.examples.length < examplesMax && found.examples.at(-1) !== place) found.examples.push(place);
    this.findings.set(lint, found);
  }

  document(tokens: number, trainedTokens: number): void {
    this.documents++;
    this.tokens += tokens;
    this.trainedTokens += trainedTokens;
    this.longest = Math.max(this.longest, tokens);
    const power = Math.max(4, Math.ceil(Math.log2(tokens)));
    this.buckets[power] = (this.buckets[power] ?? 0) + 1;
  }

  finish(): DatasetReport {
    const share = this.tokens === 0 ? 0 : this.trainedTokens / this.tokens;
    if (this.documents === 0) this.finding("no-trained-tokens", nothingLeft);
    else if (share < this.trainedShareMin)
      this.finding("trained-share", `${percent(share)} of ${this.tokens} tokens`);
    const findings = lintNames.flatMap((lint) => {
      const found = this.findings.get(lint);
      // Nothing can be trained on an empty data set, whatever is allowed.
      const needed = lint === "no-trained-tokens" && this.trainedTokens === 0;
      const refused = needed || !(reportedOnly.has(lint) || this.allowed.has(lint));
      return found ? [{ lint, ...found, refused }] : [];
    });
    const { documents, tokens, trainedTokens, longest, verdicts } = this;
    return {
      records: verdicts.ok + verdicts.repaired + verdicts.dropped,
      verdicts,
      reasons: [...this.reasons.values()],
      documents,
      tokens,
      trainedTokens,
      longest,
      histogram: this.buckets.flatMap((count, power) =>
        count ? { upTo: 2 ** power, documents: count } : [],
      ),
      findings,
      refused: findings.some((finding) => finding.refused),
    };
  }
}

/** The report as lines for a terminal. */
export function reportText(report: DatasetReport): string {
  const { verdicts, tokens, trainedTokens } = report;
  const share = tokens === 0 ? 0 : trainedTokens / tokens;
  const rows: [string, string][] = [
    [
      "records",
      `${report.records} (${verdicts.ok} ok, ${verdicts.repaired} repaired, ${verdicts.dropped} dropped)`,
    ],
    ["documents", `${report.documents}, the longest of ${report.longest} tokens`],
    ["tokens", String(tokens)],
    ["trained tokens", `${trainedTokens} (${percent(share)})`],
  ];
  const lines = rows.map(([name, value]) => `${name.padEnd(16)}${value}`);
  if (report.histogram.length > 0) lines.push("", "length", ...histogramLines(report));
  if (report.reasons.length > 0) lines.push("", "verdicts");
  for (const { verdict, reason, count, first } of report.reasons)
    lines.push(`  ${verdict} ${count} x ${reason} (first: ${first})`);
  if (report.findings.length > 0) lines.push("", "lints");
  for (const { lint, count, refused, examples } of report.findings) {
    lines.push(`  ${refused ? "REFUSED" : "noted"} ${lint} x ${count}: ${lints[lint]}`);
    for (const example of examples) lines.push(`      ${example}`);
  }
  return lines.join("\n");
}

/** One sentence for whoever started a job with this data. That nothing is left follows from the other findings, if any. */
export function refusalText(report: DatasetReport): string {
  const all = report.findings.filter((finding) => finding.refused);
  const causes = all.filter(({ examples }) => examples[0] !== nothingLeft);
  const refused = causes.length > 0 ? causes : all;
  const parts = refused.map(
    ({ lint, count, examples }) => `${lint} (${count} x, ${examples[0]}): ${lints[lint]}`,
  );
  return `The data is refused: ${parts.join("; ")}. Mend it, or allow what is meant by name (allow = [${refused
    .map(({ lint }) => `"${lint}"`)
    .join(", ")}]).`;
}

function histogramLines({ histogram }: DatasetReport): string[] {
  const most = Math.max(...histogram.map(({ documents }) => documents));
  return histogram.map(({ upTo, documents }) => {
    const bar = "#".repeat(Math.ceil((documents / most) * 40));
    return `  <= ${String(upTo).padStart(7)}  ${String(documents).padStart(8)}  ${bar}`;
  });
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
