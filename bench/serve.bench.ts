/** A running server under load, as clients see it: tokens/s, time to first token, time per output token, at several concurrencies.
 *  usage: bun bench/serve.bench.ts (--model FOLDER | --url http://host:port) [--concurrency 1,8,32] [--prompt 128] [--generate 64] [--json]
 *  With --model it starts `koala serve` itself and prints the share of the machine's measured peaks that the load reached. */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startKoala } from "../test/support/koala_process.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    url: { type: "string" },
    concurrency: { type: "string", default: "1,8,32" },
    prompt: { type: "string", default: "128" },
    generate: { type: "string", default: "64" },
    threads: { type: "string", default: "0" },
    json: { type: "boolean", default: false },
  },
});
if (!flags.model === !flags.url) {
  console.error(
    "usage: bun bench/serve.bench.ts (--model FOLDER | --url URL) [--concurrency 1,8,32] [--prompt 128] [--generate 64] [--json]",
  );
  process.exit(1);
}

interface Timing {
  firstMs: number;
  totalMs: number;
  tokens: number;
}

interface Row {
  concurrency: number;
  tokensPerSecond: number;
  firstMsMedian: number;
  firstMsP95: number;
  perTokenMsMedian: number;
  weightsGBs: number | null;
}

const promptLength = Number(flags.prompt);
const generate = Number(flags.generate);
const cli = [process.execPath, join(import.meta.dir, "..", "src", "cli", "main.ts")];
const peaks = flags.model ? await measuredPeaks() : null;
const server = flags.model ? await startKoala(["--model", flags.model, "--threads", flags.threads]) : null;
const url = server?.url ?? (flags.url as string);
const { id, weightBytes } = await servedModel();
const rows: Row[] = [];
for (const concurrency of flags.concurrency.split(",").map(Number)) rows.push(await load(concurrency));
await server?.stop();
report();

/** One request a client, all at once, after one warm-up. Prompts differ, so that no prefix is shared. */
async function load(concurrency: number): Promise<Row> {
  await request(-1 - concurrency);
  const start = performance.now();
  const timings = await Promise.all(
    Array.from({ length: concurrency }, (_, i) => request(concurrency * 1000 + i)),
  );
  const seconds = (performance.now() - start) / 1000;
  const tokens = timings.reduce((sum, timing) => sum + timing.tokens, 0);
  const perToken = timings.map(
    (timing) => (timing.totalMs - timing.firstMs) / Math.max(timing.tokens - 1, 1),
  );
  const step = quantile(perToken, 0.5);
  return {
    concurrency,
    tokensPerSecond: tokens / seconds,
    firstMsMedian: quantile(
      timings.map((t) => t.firstMs),
      0.5,
    ),
    firstMsP95: quantile(
      timings.map((t) => t.firstMs),
      0.95,
    ),
    perTokenMsMedian: step,
    // Each step reads every weight once, whatever the number of sequences.
    weightsGBs: weightBytes === null ? null : weightBytes / step / 1e6,
  };
}

async function request(seed: number): Promise<Timing> {
  const prompt = Array.from(
    { length: promptLength },
    (_, i) => 300 + (((seed + 5000) * 7919 + i * 104729) % 200),
  );
  const start = performance.now();
  const answer = await fetch(`${url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({
      model: id,
      prompt,
      max_tokens: generate,
      temperature: 0,
      ignore_eos: true,
      stream: true,
      return_token_ids: true,
    }),
  });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  let firstMs = 0;
  let tokens = 0;
  let buffered = "";
  for await (const text of (answer.body as ReadableStream<Uint8Array>).pipeThrough(
    new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>,
  )) {
    const lines = (buffered + text).split("\n");
    buffered = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const chunk = JSON.parse(line.slice(6)) as { choices: { token_ids?: number[] }[] };
      tokens += chunk.choices[0]?.token_ids?.length ?? 0;
      if (tokens > 0) firstMs ||= performance.now() - start;
    }
  }
  return { firstMs, totalMs: performance.now() - start, tokens };
}

async function servedModel(): Promise<{ id: string; weightBytes: number | null }> {
  const list = (await (await fetch(`${url}/v1/models`)).json()) as {
    data: { id: string; parameter_count?: number; dtype?: string }[];
  };
  const model = list.data[0];
  if (!model) throw new Error(`${url} serves no model`);
  const bytes = model.dtype === "bfloat16" ? 2 : 4;
  return { id: model.id, weightBytes: model.parameter_count ? model.parameter_count * bytes : null };
}

/** `koala doctor` measures them in a process of its own, before the server takes the cores. */
async function measuredPeaks(): Promise<string> {
  const text = await new Response(Bun.spawn([...cli, "doctor", "--json"], { stdout: "pipe" }).stdout).text();
  const findings = JSON.parse(text) as { name: string; text: string }[];
  return findings.find((finding) => finding.name === "measured")?.text ?? "";
}

function report(): void {
  if (flags.json) return console.log(JSON.stringify({ model: id, promptLength, generate, peaks, rows }));
  console.log(
    `${id}: ${promptLength} prompt tokens, ${generate} generated each${peaks ? `; this machine: ${peaks}` : ""}`,
  );
  console.log("clients  tokens/s  first token ms (p95)   ms per token  weights GB/s");
  for (const row of rows) {
    const first = `${row.firstMsMedian.toFixed(0)} (${row.firstMsP95.toFixed(0)})`;
    const cells = [
      String(row.concurrency).padStart(7),
      row.tokensPerSecond.toFixed(1).padStart(9),
      first.padStart(21),
      row.perTokenMsMedian.toFixed(1).padStart(14),
    ];
    console.log(`${cells.join(" ")} ${(row.weightsGBs?.toFixed(1) ?? "-").padStart(13)}`);
  }
}

function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(Math.floor(q * sorted.length), sorted.length - 1)] as number;
}
