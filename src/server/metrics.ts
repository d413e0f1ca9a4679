/** Counters, gauges and histograms as Prometheus text. Our names begin with koala_; the vllm: aliases let existing
 *  gateways, autoscalers and dashboards read us unchanged (vLLM docs/design/metrics.md). Labels are ours, never a client's. */

import type { ServedModel } from "./context.ts";

/** One clock for all intervals. */
export const now = (): number => performance.now() / 1000;

const SECONDS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];

const HISTOGRAMS = {
  time_to_first_token_seconds: { buckets: SECONDS, help: "From the request to its first token." },
  inter_token_latency_seconds: { buckets: SECONDS, help: "Between a sequence's tokens." },
  e2e_request_latency_seconds: { buckets: SECONDS, help: "From the request to the end of a sequence." },
  request_queue_time_seconds: { buckets: SECONDS, help: "From the request to the start of its prefill." },
  request_prefill_time_seconds: { buckets: SECONDS, help: "From the start of prefill to the first token." },
  request_decode_time_seconds: { buckets: SECONDS, help: "From a sequence's first token to its end." },
  request_prompt_tokens: { buckets: TOKENS, help: "Prompt tokens of a sequence." },
  request_generation_tokens: { buckets: TOKENS, help: "Generated tokens of a sequence." },
} as const;
export type HistogramName = keyof typeof HISTOGRAMS;

class Histogram {
  readonly counts: number[];
  sum = 0;
  count = 0;

  constructor(readonly buckets: readonly number[]) {
    this.counts = buckets.map(() => 0);
  }

  observe(value: number): void {
    this.sum += value;
    this.count++;
    const index = this.buckets.findIndex((bound) => value <= bound);
    if (index >= 0) this.counts[index]!++;
  }
}

export class Metrics {
  readonly #histograms = new Map<string, Histogram>();
  readonly #finished = new Map<string, number>();
  readonly #responses = new Map<string, number>();
  readonly #moderated = new Map<string, number>();

  observe(name: HistogramName, model: string, value: number): void {
    const key = `${name}\n${model}`;
    let histogram = this.#histograms.get(key);
    if (histogram === undefined)
      this.#histograms.set(key, (histogram = new Histogram(HISTOGRAMS[name].buckets)));
    histogram.observe(value);
  }

  finished(model: string, reason: string): void {
    count(this.#finished, `${model}\n${reason}`);
  }

  /** phase: request, response or stream; decision: passed, flagged, blocked, failed_open or failed_closed. */
  moderated(phase: string, decision: string): void {
    count(this.#moderated, `${phase}\n${decision}`);
  }

  /** `route` is the declared path, not the requested one: clients must not make labels. */
  responded(route: string, status: number): void {
    count(this.#responses, `${route}\n${status}`);
  }

  /** The text format of Prometheus 0.0.4. */
  render(models: readonly ServedModel[], inFlight: number): string {
    const page = new Exposition();
    page.gauge("koala_http_requests_in_flight", "Requests being worked on.", [[{}, inFlight]]);
    page.counter(
      "koala_http_responses_total",
      "Answers by route and status.",
      labelled(this.#responses, ["route", "status"]),
    );
    page.counter(
      "koala_moderation_decisions_total",
      "Texts that moderation judged.",
      labelled(this.#moderated, ["phase", "decision"]),
    );
    page.counter(
      "koala_requests_finished_total",
      "Ended sequences.",
      labelled(this.#finished, ["model_name", "finished_reason"]),
    );
    page.counter(
      "vllm:request_success_total",
      "Ended sequences.",
      labelled(this.#finished, ["model_name", "finished_reason"]),
    );
    const engines = models.filter((model) => !model.sharesEngine);
    for (const [name, help, kind, value] of ENGINE_METRICS)
      for (const prefix of ["koala_", "vllm:"])
        page[kind](
          prefix + name,
          help,
          engines.map((model) => [{ model_name: model.id }, value(model)]),
        );
    page.gauge(
      "koala_model_up",
      "1 where the model is loaded.",
      models.map((m) => [{ model_name: m.id }, Number(m.engine.state === "ready")]),
    );
    page.gauge(
      "koala_engine_stalled_seconds",
      "Since the last step, while something runs.",
      engines.map((m) => [{ model_name: m.id }, m.engine.stats.stalledMs / 1000]),
    );
    page.gauge(
      "vllm:cache_config_info",
      "Pages of the KV cache.",
      engines.map((m) => [
        {
          model_name: m.id,
          block_size: String(m.engine.stats.pageSize),
          num_gpu_blocks: String(m.engine.stats.pagesTotal),
          cache_dtype: m.engine.info?.cacheDtype ?? "",
        },
        1,
      ]),
    );
    page.gauge("vllm:lora_requests_info", "Adapters that requests run with and wait for.", adapters(engines));
    for (const [key, histogram] of this.#histograms) {
      const [name, model] = key.split("\n") as [HistogramName, string];
      for (const prefix of ["koala_", "vllm:"])
        page.histogram(prefix + name, HISTOGRAMS[name].help, { model_name: model }, histogram);
    }
    return page.text();
  }
}

type Value = (model: ServedModel) => number;
const ENGINE_METRICS: [name: string, help: string, kind: "gauge" | "counter", value: Value][] = [
  ["num_requests_running", "Sequences in the batch.", "gauge", (m) => m.engine.stats.running],
  ["num_requests_waiting", "Sequences in the queue.", "gauge", (m) => m.engine.stats.waiting],
  ["kv_cache_usage_perc", "Share of the KV cache held by running sequences, 0 to 1.", "gauge", cacheUsage],
  ["gpu_cache_usage_perc", "The same, under its older name.", "gauge", cacheUsage],
  ["prompt_tokens_total", "Prompt tokens run.", "counter", (m) => m.engine.stats.promptTokens],
  ["generation_tokens_total", "Tokens generated.", "counter", (m) => m.engine.stats.generatedTokens],
  [
    "prefix_cache_queries_total",
    "Prompt tokens looked up in the prefix cache.",
    "counter",
    (m) => m.engine.stats.prefixQueriesTokens,
  ],
  ["prefix_cache_hits_total", "Prompt tokens found there.", "counter", (m) => m.engine.stats.prefixHitTokens],
  [
    "num_preemptions_total",
    "Sequences put back because pages ran out.",
    "counter",
    (m) => m.engine.stats.preemptions,
  ],
  ["engine_steps_total", "Steps of the engine.", "counter", (m) => m.engine.stats.steps],
];

function cacheUsage(model: ServedModel): number {
  const { pagesUsed, pagesTotal } = model.engine.stats;
  return pagesTotal === 0 ? 0 : pagesUsed / pagesTotal;
}

/** One sample over all engines that take adapters, as vLLM has it: its value is the time, its labels say what is so then. */
function adapters(models: readonly ServedModel[]): Sample[] {
  const stats = models.map(({ engine }) => engine.stats).filter(({ adaptersMax }) => adaptersMax > 0);
  if (stats.length === 0) return [];
  const labels = {
    max_lora: String(stats.reduce((sum, { adaptersMax }) => sum + adaptersMax, 0)),
    waiting_lora_adapters: stats.flatMap(({ adaptersWaiting }) => adaptersWaiting).join(","),
    running_lora_adapters: stats.flatMap(({ adaptersRunning }) => adaptersRunning).join(","),
  };
  return [[labels, Date.now() / 1000]];
}

type Sample = [labels: Record<string, string>, value: number];

class Exposition {
  readonly #lines: string[] = [];
  readonly #declared = new Set<string>();

  gauge(name: string, help: string, samples: Sample[]): void {
    this.#samples(name, "gauge", help, samples);
  }

  counter(name: string, help: string, samples: Sample[]): void {
    this.#samples(name, "counter", help, samples);
  }

  histogram(name: string, help: string, labels: Record<string, string>, histogram: Histogram): void {
    this.#declare(name, "histogram", help);
    let below = 0;
    histogram.buckets.forEach((bound, i) => {
      below += histogram.counts[i]!;
      this.#sample(`${name}_bucket`, { ...labels, le: String(bound) }, below);
    });
    this.#sample(`${name}_bucket`, { ...labels, le: "+Inf" }, histogram.count);
    this.#sample(`${name}_sum`, labels, histogram.sum);
    this.#sample(`${name}_count`, labels, histogram.count);
  }

  text(): string {
    return `${this.#lines.join("\n")}\n`;
  }

  #samples(name: string, type: string, help: string, samples: Sample[]): void {
    if (samples.length === 0) return;
    this.#declare(name, type, help);
    for (const [labels, value] of samples) this.#sample(name, labels, value);
  }

  #declare(name: string, type: string, help: string): void {
    if (this.#declared.has(name)) return;
    this.#declared.add(name);
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
  }

  #sample(name: string, labels: Record<string, string>, value: number): void {
    const inner = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
    this.#lines.push(`${name}${inner.length > 0 ? `{${inner.join(",")}}` : ""} ${value}`);
  }
}

const escapeLabel = (text: string): string =>
  text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");

const count = (map: Map<string, number>, key: string): void => void map.set(key, (map.get(key) ?? 0) + 1);

const labelled = (map: Map<string, number>, names: [string, string]): Sample[] =>
  [...map].map(([key, value]) => {
    const [first = "", second = ""] = key.split("\n");
    return [{ [names[0]]: first, [names[1]]: second }, value];
  });
