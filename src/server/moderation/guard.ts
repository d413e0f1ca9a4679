/** A Llama-Guard-style model on our own engine: the score is the probability that its first word is "unsafe", and the hazard
 *  codes after it (S1 to S14, MLCommons' taxonomy as in Llama Guard 3) name the categories. */
import type { Engine, TokenLogprob } from "../../engine/messages.ts";
import type { Category } from "../../eval/moderation/categories.ts";
import type { ChatTemplate } from "../../text/template.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { idsOf } from "../../text/segments.ts";
import { type Backend, type Judgement, ModerationError } from "./backend.ts";

/** Codes without a near relative in OpenAI's list (advice, privacy, property, elections, code) count as illicit. */
export const hazards: Readonly<Record<string, readonly Category[]>> = {
  S1: ["illicit/violent", "violence"],
  S2: ["illicit"],
  S3: ["sexual", "illicit"],
  S4: ["sexual/minors"],
  S5: ["harassment"],
  S6: ["illicit"],
  S7: ["illicit"],
  S8: ["illicit"],
  S9: ["illicit/violent"],
  S10: ["hate"],
  S11: ["self-harm"],
  S12: ["sexual"],
  S13: ["illicit"],
  S14: ["illicit"],
};
const known = [...new Set(Object.values(hazards).flat())];
/** "unsafe", a line end and a list of codes. */
const tokensMax = 24;
/** Stands for what an answer replied to: the templates want a question first. */
const unknownQuestion = "(not shown)";

export interface GuardModel {
  engine: Engine;
  tokenizer: Tokenizer;
  template: ChatTemplate | null;
}

export function guardBackend(model: GuardModel, close?: () => Promise<void>): Backend {
  const { template } = model;
  if (template === null) throw new Error("A guard model without a chat template cannot be asked.");
  return {
    name: "guard",
    categories: known,
    charsMax: 4000,
    judge: (texts, { phase, signal }) =>
      Promise.all(
        texts.map((text) => {
          const user = { role: "user" as const, content: phase === "request" ? text : unknownQuestion };
          const messages =
            phase === "request" ? [user] : [user, { role: "assistant" as const, content: text }];
          return ask(model, idsOf(template.render(messages)), template.stopIds, signal);
        }),
      ),
    ...(close === undefined ? {} : { close }),
  };
}

async function ask(
  { engine, tokenizer }: GuardModel,
  prompt: number[],
  stopIds: readonly number[],
  signal: AbortSignal,
): Promise<Judgement> {
  const ids: number[] = [];
  let unsafe: number | null = null;
  for await (const event of engine.generate(request(prompt, stopIds), signal)) {
    if (event.type === "finish" && event.reason === "error")
      throw new ModerationError("unavailable", `The guard model failed: ${event.error ?? "no reason given"}`);
    if (event.type !== "token") continue;
    ids.push(event.id);
    // Line ends come first in some versions; the verdict is the first token with letters.
    if (unsafe === null && tokenizer.decode([event.id]).trim() !== "")
      unsafe = unsafeShare(event.logprob, tokenizer);
  }
  signal.throwIfAborted();
  const said = tokenizer.decode(ids).trim().toLowerCase();
  if (unsafe === null || !/^(un)?safe\b/.test(said))
    throw new ModerationError(
      "bad_answer",
      // What it said instead may repeat the text: it is told to nobody.
      "The guard model said neither safe nor unsafe; it is probably no guard model.",
    );
  return judgementOf(said, unsafe);
}

const request = (prompt: number[], stopIds: readonly number[]) => ({
  id: `guard-${crypto.randomUUID()}`,
  prompt,
  params: {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    frequencyPenalty: 0,
    presencePenalty: 0,
    logitBias: [],
    seed: 0,
    minTokens: 0,
    maxTokens: tokensMax,
    stopTokenIds: [...stopIds],
    logprobs: 20,
    promptLogprobs: null,
    grammar: null,
  },
  group: null,
  // Before the answers that wait for it.
  priority: -1,
  cacheSalt: "",
});

/** P(unsafe) against P(safe) among the likeliest tokens; a token counts for the word that it begins. */
function unsafeShare(logprob: TokenLogprob | null, tokenizer: Tokenizer): number {
  let safe = 0;
  let unsafe = 0;
  const candidates = new Map([[logprob!.id, logprob!.logprob], ...logprob!.top]);
  for (const [id, value] of candidates) {
    const text = tokenizer.decode([id]).trim().toLowerCase();
    if (text === "") continue;
    if ("unsafe".startsWith(text)) unsafe += Math.exp(value);
    else if ("safe".startsWith(text)) safe += Math.exp(value);
  }
  return safe + unsafe === 0 ? 0 : unsafe / (safe + unsafe);
}

/** "unsafe" without a code that we know must not pass for nothing: illicit stands for it. */
function judgementOf(said: string, unsafe: number): Judgement {
  const scores = new Map<Category, number>(known.map((category) => [category, 0]));
  if (said.startsWith("unsafe")) {
    const codes = (said.toUpperCase().match(/\bS\d{1,2}\b/g) ?? []).flatMap((code) => hazards[code] ?? []);
    for (const category of codes.length === 0 ? (["illicit"] as const) : codes) scores.set(category, unsafe);
  }
  return { scores, flagged: new Set() };
}
