/** The model that an automatic evaluation asks: loaded for this command, or behind an OpenAI endpoint. Either way it is spoken to
 *  in the API's words: /v1/completions with echo and logprobs, and /tokenize where the endpoint has it (Koala, vLLM). */
import type { Command } from "commander";
import {
  TextLikelihood,
  TokenLikelihood,
  type EchoedToken,
  type Likelihood,
  type TokenModel,
  type TokenScore,
  type Windows,
} from "../../eval/tasks/likelihood.ts";
import type { Generation } from "../../eval/tasks/task_file.ts";
import { UsageError } from "../../util/errors.ts";
import { openApi, type Api } from "../api.ts";
import { addModelFlags } from "../model_options.ts";
import type { ServedModelFlags } from "../served_model.ts";

export interface ScoredModelFlags extends ServedModelFlags {
  url?: string;
  apiKey?: string;
  bos: boolean;
  json?: boolean;
}

export interface ScoredModel {
  modelId: string;
  likelihood(windows?: Windows): Likelihood;
  /** null: the endpoint has no tokenizer to ask. */
  tokens: TokenModel | null;
  /** Ids of a dialogue; `open`: its last message is not closed. */
  dialogue(messages: readonly ChatTurn[], marker: string | null, open: boolean): Promise<number[]>;
  generate(items: readonly Generation[]): Promise<string[]>;
  close(): Promise<void>;
}

export interface ChatTurn {
  role: string;
  content: string;
}

export function addScoredModelFlags(command: Command): Command {
  return addModelFlags(
    command
      .option(
        "--url <url>",
        "an OpenAI endpoint that serves MODEL, with echo and logprobs in /v1/completions",
      )
      .option("--api-key <key>", "key for the endpoint")
      .option("--no-bos", "put no beginning-of-sequence token before texts, as lm-evaluation-harness does")
      .option("--json", "print the figures as JSON"),
  );
}

export async function openScoredModel(name: string, flags: ScoredModelFlags): Promise<ScoredModel> {
  const api = await openApi(flags.url ?? name, flags);
  const modelId = flags.url === undefined ? api.modelId : name;
  const endpoint = new Endpoint(api, modelId);
  try {
    const tokens = await endpoint.tokenModel(flags.bos);
    return {
      modelId,
      tokens,
      likelihood: (windows) =>
        tokens === null
          ? new TextLikelihood((texts) => endpoint.echoTexts(texts))
          : new TokenLikelihood(tokens, windows),
      dialogue: (messages, marker, open) => endpoint.dialogue(messages, marker, open),
      generate: (items) => endpoint.generate(items),
      close: () => api.close(),
    };
  } catch (error) {
    await api.close();
    throw error;
  }
}

interface Logprobs {
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

interface Choice {
  index: number;
  text: string;
  logprobs: Logprobs | null;
}

class Endpoint {
  constructor(
    private readonly api: Api,
    private readonly model: string,
  ) {}

  async tokenModel(withBos: boolean): Promise<TokenModel | null> {
    const start = await this.tokenize({ prompt: "" }).catch(() => null);
    if (start === null) return null;
    const info = (await this.api.get("/tokenizer_info")) as { eos_token_ids?: number[] } | null;
    const bos = start.tokens.slice(0, 1);
    const prefix = bos[0] ?? info?.eos_token_ids?.[0];
    if (prefix === undefined)
      throw new UsageError(
        `${this.model} has neither a BOS nor an EOS token to put before a text, so its first token has no probability.`,
      );
    return {
      encode: async (text) => (await this.tokenize({ prompt: text, add_special_tokens: false })).tokens,
      score: (rows) => this.scoreRows(rows),
      prefix,
      bos: withBos ? bos : [],
      // One place is for the token that an endpoint must generate.
      longest: start.max_model_len - 1,
    };
  }

  async dialogue(messages: readonly ChatTurn[], marker: string | null, open: boolean): Promise<number[]> {
    const continued = { add_generation_prompt: false, continue_final_message: true };
    return (await this.tokenize({ messages, ...(marker ? { marker } : {}), ...(open ? continued : {}) }))
      .tokens;
  }

  async generate(items: readonly Generation[]): Promise<string[]> {
    const one = async ({ query, until, maxTokens }: Generation): Promise<string> => {
      const body = { prompt: query, max_tokens: maxTokens, temperature: 0, stop: until };
      return (await this.complete(body))[0]!.text;
    };
    return Promise.all(items.map(one));
  }

  async echoTexts(texts: readonly string[]): Promise<EchoedToken[][]> {
    const choices = await this.complete({ prompt: texts, ...scoring });
    return choices.map(({ logprobs }, i) => {
      const { text_offset: offsets } = logprobs!;
      const length = [...texts[i]!].length;
      const known = offsets.flatMap((offset, t) => (offset < length ? [t] : []));
      return known.map((t) => ({ offset: offsets[t]!, score: tokenScore(logprobs!, t) }));
    });
  }

  private async scoreRows(rows: readonly { ids: number[]; from: number }[]): Promise<TokenScore[][]> {
    const choices = await this.complete({ prompt: rows.map(({ ids }) => ids), ...scoring });
    return rows.map(({ ids, from }, i) =>
      ids.slice(from).map((_, t) => {
        const score = tokenScore(choices[i]!.logprobs!, from + t);
        if (score !== null) return score;
        throw new UsageError(`${this.model} answered without the log-probability of token ${from + t}.`);
      }),
    );
  }

  private async complete(body: Record<string, unknown>): Promise<Choice[]> {
    for await (const chunk of this.api.post("/v1/completions", { model: this.model, ...body })) {
      const choices = (chunk.choices as unknown as Choice[]).toSorted((a, b) => a.index - b.index);
      if (!body.echo || choices.every(({ logprobs }) => logprobs !== null)) return choices;
    }
    throw new UsageError(
      `${this.model} gives no log-probabilities of a prompt; the endpoint needs echo with logprobs in /v1/completions.`,
    );
  }

  private async tokenize(
    body: Record<string, unknown>,
  ): Promise<{ tokens: number[]; max_model_len: number }> {
    for await (const answer of this.api.post("/tokenize", { model: this.model, ...body })) {
      const { tokens, max_model_len } = answer as unknown as { tokens?: number[]; max_model_len: number };
      if (tokens !== undefined) return { tokens, max_model_len };
    }
    throw new UsageError(
      "The endpoint has no /tokenize, which this evaluation needs; Koala and vLLM have it.",
    );
  }
}

/** max_tokens 1, since not every endpoint takes 0; the generated token is left out. */
const scoring = { max_tokens: 1, temperature: 0, logprobs: 1, echo: true };

/** A token is greedy where its own float is the largest among the best, as lm-evaluation-harness reads it. */
function tokenScore(logprobs: Logprobs, at: number): TokenScore | null {
  const logprob = logprobs.token_logprobs[at] ?? null;
  if (logprob === null) return null;
  return { logprob, greedy: logprob === Math.max(...Object.values(logprobs.top_logprobs[at] ?? {})) };
}
