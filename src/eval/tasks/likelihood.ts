/** What a model thinks of given texts, seen by the automatic evaluations: log-likelihoods of continuations and of documents.
 *  Two ways lead there: by token ids, which is exact (`TokenLikelihood`), and by texts, for endpoints that have no tokenizer
 *  to ask (`TextLikelihood`). The caller gives the functions that speak to the model. */
import { UsageError } from "../../util/errors.ts";

export interface Pair {
  context: string;
  continuation: string;
}

export interface Score {
  logprob: number;
  /** Tokens that were scored. */
  tokens: number;
  /** Each of them is the model's first choice. */
  greedy: boolean;
}

export interface Likelihood {
  /** Of each continuation behind its context. */
  pairs(pairs: readonly Pair[]): Promise<Score[]>;
  /** Of a whole document, from its first token on. */
  rolling(text: string): Promise<Score>;
}

/** Ids to run, and the first of them that counts; at least 1, since nothing predicts the first. */
export interface TokenRow {
  ids: number[];
  from: number;
}

/** A scored token: its log-probability, and whether no other token has a larger one. */
export interface TokenScore {
  logprob: number;
  greedy: boolean;
}

export interface TokenModel {
  /** Ids of a text, nothing put in front. */
  encode(text: string): Promise<number[]>;
  /** Scores of ids[from..] of each row. */
  score(rows: readonly TokenRow[]): Promise<TokenScore[][]>;
  /** Stands before a document, and before a continuation without context. */
  prefix: number;
  /** In front of every context; empty: none. */
  bos: readonly number[];
  /** Most ids of a row. */
  longest: number;
}

export interface Windows {
  /** Most ids of a row; at most the model's. */
  window?: number;
  /** Tokens that each further row scores (default: all but one). Fewer give each token more context, and cost more rows. */
  stride?: number;
}

/** Exact: what is scored are the ids of context and continuation as they are when encoded together. */
export class TokenLikelihood implements Likelihood {
  constructor(
    private readonly model: TokenModel,
    private readonly windows: Windows = {},
  ) {}

  async pairs(pairs: readonly Pair[]): Promise<Score[]> {
    const rows: TokenRow[] = [];
    for (const pair of pairs) rows.push(await this.rowOf(pair));
    return (await this.model.score(rows)).map(total);
  }

  async rolling(text: string): Promise<Score> {
    const { prefix, longest } = this.model;
    const window = Math.min(this.windows.window ?? longest, longest);
    const rows = rollingRows(await this.model.encode(text), { prefix, window, stride: this.windows.stride });
    const scores: TokenScore[] = [];
    for (const row of rows) scores.push(...(await this.model.score([row]))[0]!);
    return total(scores);
  }

  /** As lm-evaluation-harness encodes a pair: spaces at the end of the context go to the continuation, and the continuation
   *  is what the ids of both together have beyond those of the context. A row that is too long loses its beginning. */
  private async rowOf({ context, continuation }: Pair): Promise<TokenRow> {
    const { encode, prefix, bos, longest } = this.model;
    const kept = context.trimEnd();
    const before = kept === "" ? [] : await encode(kept);
    const whole = await encode(context + continuation);
    const answer = whole.slice(before.length);
    if (answer.length === 0)
      throw new UsageError(`The continuation ${JSON.stringify(continuation)} has no tokens; give it a text.`);
    if (answer.length >= longest)
      throw new UsageError(
        `A continuation of ${answer.length} tokens does not fit into the model's ${longest}; shorten it.`,
      );
    const start = [...bos, ...before];
    const ids = [...(start.length === 0 ? [prefix] : start), ...answer].slice(-longest);
    return { ids, from: ids.length - answer.length };
  }
}

/** Rows that score each token of a document once. The first scores as many as fit behind `prefix`; each further one scores
 *  `stride` more, with as much before them as the window holds. Without a stride these are lm-evaluation-harness's windows. */
export function rollingRows(
  ids: readonly number[],
  { prefix, window, stride = window - 1 }: { prefix: number; window: number; stride?: number | undefined },
): TokenRow[] {
  if (window < 2 || stride < 1 || stride >= window)
    throw new UsageError(
      `A window of ${window} tokens and a stride of ${stride} cannot score a text; the stride is at least 1 and below the window.`,
    );
  const all = [prefix, ...ids];
  const rows: TokenRow[] = [];
  for (let done = 1; done < all.length;) {
    const end = Math.min(all.length, done === 1 ? window : done + stride);
    const start = Math.max(0, end - window);
    rows.push({ ids: all.slice(start, end), from: done - start });
    done = end;
  }
  return rows;
}

const total = (scores: readonly TokenScore[]): Score => ({
  logprob: scores.reduce((sum, { logprob }) => sum + logprob, 0),
  tokens: scores.length,
  greedy: scores.every(({ greedy }) => greedy),
});

/** A text's tokens as an endpoint names them: where each begins, in code points, and null for one that nothing predicts. */
export interface EchoedToken {
  offset: number;
  score: TokenScore | null;
}

/** By texts: a token belongs to the continuation where it begins behind the context. A token that spans both counts as context,
 *  so prefer token ids where the endpoint has a tokenizer. */
export class TextLikelihood implements Likelihood {
  constructor(private readonly echo: (texts: readonly string[]) => Promise<EchoedToken[][]>) {}

  async pairs(pairs: readonly Pair[]): Promise<Score[]> {
    const found = await this.echo(pairs.map(({ context, continuation }) => context + continuation));
    return found.map((tokens, i) => {
      const { context, continuation } = pairs[i]!;
      const from = [...context.trimEnd()].length;
      const scores = tokens.flatMap(({ offset, score }) => (offset >= from && score ? [score] : []));
      if (scores.length > 0) return total(scores);
      throw new UsageError(
        `No token begins with the continuation ${JSON.stringify(continuation)} at this endpoint; put a space or a line end before it.`,
      );
    });
  }

  async rolling(text: string): Promise<Score> {
    const [tokens = []] = await this.echo([text]);
    return total(tokens.flatMap(({ score }) => (score ? [score] : [])));
  }
}
