/** Koala beside a native build of llama.cpp: interleaved rounds on one machine, medians and their ratio.
 *  usage: bun bench/duel.ts --model HF_FOLDER --gguf FILE --llama BIN_FOLDER [--rounds 5] [--threads 2] [--decode] [--out results.json]
 *  --decode runs one sequence's decoding only, for more rounds in the same time
 *  BIN_FOLDER holds llama-bench and llama-batched-bench; the GGUF has the same shape and element type as the folder.
 *  Only ratios within a round mean something on a shared machine. */
import { join } from "node:path";
import { parseArgs } from "node:util";

interface Rates {
  "prefill 512": number;
  "decode x1": number;
  "decode x8": number;
  "decode x32": number;
}

const allTests = ["prefill 512", "decode x1", "decode x8", "decode x32"] as const;
const steps = 16;

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    gguf: { type: "string" },
    llama: { type: "string" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    decode: { type: "boolean", default: false },
    out: { type: "string" },
  },
});
const { model, gguf, llama, threads } = flags;
if (!model || !gguf || !llama) {
  console.error(
    "usage: bun bench/duel.ts --model HF_FOLDER --gguf FILE --llama BIN_FOLDER [--rounds 5] [--threads 2] [--out FILE]",
  );
  process.exit(1);
}

const tests = flags.decode ? (["decode x1"] as const) : allTests;
const ours: Rates[] = [];
const theirs: Rates[] = [];
let device = "";
for (let round = 0; round < Number(flags.rounds); round++) {
  ours.push(await koala());
  theirs.push(await llamaCpp());
  console.error(
    `round ${round + 1}: ${tests.map((test) => `${test} ${ratio(ours.at(-1)![test], theirs.at(-1)![test])}`).join(", ")}`,
  );
}
report();

/** Ours: two repeats a round, so that the median of rounds is what counts. */
async function koala(): Promise<Rates> {
  const cli = join(import.meta.dir, "..", "src", "cli", "main.ts");
  const args = [
    "bench",
    "--model",
    model!,
    "--threads",
    threads,
    "--generate",
    String(steps),
    "--repeat",
    "2",
    "--dtype",
    "bfloat16",
    "--json",
  ];
  const result = JSON.parse(await output([process.execPath, cli, ...args])) as {
    info: { device: string };
    rows: { what: string; tokensPerSecond: number }[];
  };
  device = result.info.device;
  return Object.fromEntries(result.rows.map((row) => [row.what, row.tokensPerSecond])) as unknown as Rates;
}

async function llamaCpp(): Promise<Rates> {
  const bench = JSON.parse(
    await output([
      join(llama!, "llama-bench"),
      "-m",
      gguf!,
      "-t",
      threads,
      "-p",
      "512",
      "-n",
      String(steps),
      "-r",
      "2",
      "-o",
      "json",
    ]),
  ) as { n_prompt: number; avg_ts: number }[];
  const single = bench.find((run) => run.n_prompt === 0)!.avg_ts;
  if (flags.decode) return { "decode x1": single } as Rates;
  const batched = (
    await output([
      join(llama!, "llama-batched-bench"),
      "-m",
      gguf!,
      "-t",
      threads,
      "-c",
      "4096",
      "-npp",
      "16",
      "-ntg",
      String(steps),
      "-npl",
      "8,32",
      "--output-format",
      "jsonl",
    ])
  )
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as { pl: number; speed_tg: number });
  return {
    "prefill 512": bench.find((run) => run.n_prompt === 512)!.avg_ts,
    "decode x1": single,
    "decode x8": batched.find((run) => run.pl === 8)!.speed_tg,
    "decode x32": batched.find((run) => run.pl === 32)!.speed_tg,
  };
}

async function output(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" });
  const [text, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}: ${errors.slice(-500)}`);
  return text;
}

function report(): void {
  console.log(`${device}; ${flags.rounds} interleaved rounds; tokens/s, median (low .. high)`);
  console.log("| test | Koala | llama.cpp | ratio of medians | ratios per round |");
  console.log("|---|---|---|---|---|");
  for (const test of tests) {
    const a = ours.map((rates) => rates[test]);
    const b = theirs.map((rates) => rates[test]);
    const rounds = a.map((value, i) => ratio(value, b[i] as number)).join(" ");
    console.log(`| ${test} | ${spread(a)} | ${spread(b)} | ${ratio(median(a), median(b))} | ${rounds} |`);
  }
  if (flags.out) void Bun.write(flags.out, JSON.stringify({ device, ours, theirs }, null, 2));
}

function median(values: number[]): number {
  return [...values].sort((x, y) => x - y)[Math.floor(values.length / 2)] as number;
}

function spread(values: number[]): string {
  return `${median(values).toFixed(1)} (${Math.min(...values).toFixed(1)} .. ${Math.max(...values).toFixed(1)})`;
}

function ratio(a: number, b: number): string {
  return (a / b).toFixed(2);
}
