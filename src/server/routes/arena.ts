/** /arena/…: two served models answer the same prompt side by side; who they are is told after the vote.
 *  Both answers are made by the chat route's own handler, so that what holds for chats holds here.
 *  Always: no name, and no error text of a model, is in the stream; a battle can be voted on once, after its end. */
import { randomInt } from "node:crypto";
import type { Context } from "hono";
import { identityLeaks } from "../../eval/identity_leak.ts";
import { bradleyTerry } from "../../eval/statistics/bradley_terry.ts";
import { RandomStream } from "../../eval/statistics/random.ts";
import { addBattle, findBattle, newBattleId, type StoredBattle, voteOnBattle } from "../../store/battles.ts";
import { addFlag } from "../../store/flags.ts";
import type { Store } from "../../store/store.ts";
import { RequestError } from "../../util/errors.ts";
import type { ServedModel, ServerContext } from "../context.ts";
import { streamCall } from "../requests.ts";
import { defineRoute, type Call, type Route } from "../route.ts";
import { chatRequestSchema } from "../schema/chat.ts";
import {
  battleChunkSchema,
  battleFlagRequestSchema,
  battleRequestSchema,
  battleVoteRequestSchema,
  flaggedSchema,
  leaderboardSchema,
  revealSchema,
  type BattleRequest,
} from "../schema/study.ts";
import type { EventStream } from "../sse.ts";
import { exportBattles, isMarked } from "../study/export_votes.ts";
import { readEvents } from "../web/sse.ts";
import { chatCompletionsRoute } from "./chat.ts";

const tag = "Arena";
/** The same for both, whatever the models' own defaults are. */
const decoding = { temperature: 0.7, top_p: 1 };
/** Tokens of an answer; of models with a short context at most half of it, so that the prompt has room. */
const answerTokens = 512;

function arenaOf(context: ServerContext): Store {
  if (context.arena !== null) return context.arena;
  throw new RequestError("This server has no arena. Start it with --arena.", {
    status: 404,
    code: "no_arena",
  });
}

const battleRoute = defineRoute({
  method: "post",
  path: "/arena/battles",
  operationId: "battle",
  tag,
  summary: "Two anonymous answers to a prompt, as one stream",
  work: true,
  request: battleRequestSchema,
  chunk: battleChunkSchema,
  contentType: "text/event-stream",
  handle: (c, call) => {
    const store = arenaOf(call.context);
    const models = choosePair(call.context);
    return streamCall(c, call, (events) => fight(c, call, { store, models, events }));
  },
});

/** Two different ready models that chat; which is on the left is a coin's choice too. */
function choosePair(context: ServerContext): [ServedModel, ServedModel] {
  const ready = context.models.list().filter(({ engine, template }) => engine.state === "ready" && template);
  if (ready.length >= 2) {
    const left = randomInt(ready.length);
    const right = (left + 1 + randomInt(ready.length - 1)) % ready.length;
    return [ready[left]!, ready[right]!];
  }
  throw new RequestError("The arena needs two models that are ready to chat. Try again in a moment.", {
    status: 503,
    code: "no_opponents",
    type: "service_unavailable",
    retryAfterMs: 5000,
  });
}

interface Fight {
  store: Store;
  models: [ServedModel, ServedModel];
  events: EventStream;
}

/** The pair in the order of names, so that equal pairs are stored alike; sides are where they stood. */
async function fight(c: Context, call: Call<BattleRequest>, { store, models, events }: Fight): Promise<void> {
  const id = newBattleId();
  const { prompt, rater } = call.body;
  const createdAt = new Date();
  events.send({ battle: id });
  const maxTokens = Math.min(answerTokens, ...models.map(({ maxModelLen }) => Math.floor(maxModelLen / 2)));
  const sides = await Promise.all([
    answer(c, call, { model: models[0], side: "left", maxTokens, events }),
    answer(c, call, { model: models[1], side: "right", maxTokens, events }),
  ]);
  if (events.left.aborted) return;
  const [a, b] = sides.toSorted((x, y) => (x.system < y.system ? -1 : 1)) as [SideAnswer, SideAnswer];
  const systems = models.flatMap(({ id, aliases }) => [id, ...aliases]);
  const leaks = sides.flatMap(({ text }) => identityLeaks(text, { systems, prompt }));
  await addBattle(store, {
    id,
    prompt,
    createdAt,
    rater: rater ?? "anonymous",
    leaks: [...new Set(leaks)],
    systemA: a.system,
    answerA: a.text,
    finishA: a.finish,
    systemB: b.system,
    answerB: b.text,
    finishB: b.finish,
    left: a.side === "left" ? "a" : "b",
  });
  events.send({ ended: true });
}

interface SideAnswer {
  system: string;
  side: "left" | "right";
  text: string;
  finish: string;
}

async function answer(
  c: Context,
  call: Call<BattleRequest>,
  of: { model: ServedModel; side: "left" | "right"; maxTokens: number; events: EventStream },
): Promise<SideAnswer> {
  const { model, side, maxTokens, events } = of;
  const result: SideAnswer = { system: model.id, side, text: "", finish: "error" };
  try {
    for await (const chunk of chatChunks(c, call, { model, maxTokens, left: events.left })) {
      const text = chunk.choices?.[0]?.delta?.content ?? "";
      result.text += text;
      if (text !== "") events.send({ side, text });
      result.finish = chunk.choices?.[0]?.finish_reason ?? result.finish;
    }
  } catch (error) {
    // Its sentence may name the model; the log has it, the rater does not.
    if (!events.left.aborted) call.context.log(`arena: ${model.id} failed: ${String(error)}`);
    result.finish = "error";
  }
  events.send({ side, finish: result.finish });
  return result;
}

interface ChatPiece {
  error?: unknown;
  choices?: { delta?: { content?: string | null }; finish_reason?: string | null }[];
}

/** The chat route's stream for this model, read as a client reads it. */
async function* chatChunks(
  c: Context,
  call: Call<BattleRequest>,
  { model, maxTokens, left }: { model: ServedModel; maxTokens: number; left: AbortSignal },
): AsyncGenerator<ChatPiece> {
  const messages = [{ role: "user", content: call.body.prompt }];
  const body = chatRequestSchema.parse({
    ...decoding,
    model: model.id,
    messages,
    stream: true,
    max_tokens: maxTokens,
  });
  const signal = AbortSignal.any([call.signal, left]);
  const inner = { ...call, body, signal, keep: () => () => {}, ignored: [] };
  const response = await chatCompletionsRoute.handle(c, inner);
  for await (const data of readEvents(response.body!)) {
    if (data === "[DONE]") return;
    const piece = JSON.parse(data) as ChatPiece;
    if (piece.error !== undefined) throw new Error(JSON.stringify(piece.error));
    yield piece;
  }
}

async function battleOf(c: Context, store: Store): Promise<StoredBattle> {
  const battle = await findBattle(store, c.req.param("id")!);
  if (battle) return battle;
  throw new RequestError("There is no such battle, or it has not ended yet.", {
    status: 404,
    code: "unknown_battle",
  });
}

const voteRoute = defineRoute({
  method: "post",
  path: "/arena/battles/:id/vote",
  operationId: "voteInBattle",
  tag,
  summary: "Vote on a battle that has ended, and learn who answered",
  request: battleVoteRequestSchema,
  response: revealSchema,
  handle: async (c, call) => {
    const store = arenaOf(call.context);
    const { choice, dwell_ms: dwellMs } = call.body;
    const battle = await battleOf(c, store);
    const { left } = battle;
    const other = left === "a" ? "b" : "a";
    const verdict = choice === "left" ? left : choice === "right" ? other : choice;
    if (!(await voteOnBattle(store, battle.id, { verdict, dwellMs: dwellMs ?? null })))
      throw new RequestError("This battle has its vote.", { status: 409, code: "voted" });
    const { systemA, systemB, leaks } = battle;
    const names = left === "a" ? { left: systemA, right: systemB } : { left: systemB, right: systemA };
    return c.json({ ...names, counted: !isMarked(battle), leaks });
  },
});

const flagRoute = defineRoute({
  method: "post",
  path: "/arena/battles/:id/flags",
  operationId: "flagBattle",
  tag,
  summary: "Report an answer of a battle",
  request: battleFlagRequestSchema,
  response: flaggedSchema,
  handle: async (c, call) => {
    const store = arenaOf(call.context);
    const battle = await battleOf(c, store);
    const { side, category, note } = call.body;
    const isA = (battle.left === "a") === (side === "left");
    const [model, text] = isA ? [battle.systemA, battle.answerA] : [battle.systemB, battle.answerB];
    const about = { reference: battle.id, model, prompt: battle.prompt, answer: text };
    await addFlag(store, { source: "arena", ...about, category, note: note || null });
    return c.json({ reported: true });
  },
});

const leaderboardRoute = defineRoute({
  method: "get",
  path: "/arena/leaderboard",
  operationId: "leaderboard",
  tag,
  summary: "Votes and ratings of the models that fought",
  response: leaderboardSchema,
  handle: async (c, call) => {
    const votes = await exportBattles(arenaOf(call.context));
    const names = [...new Set(votes.flatMap(({ systemA, systemB }) => [systemA, systemB]))].toSorted();
    if (names.length === 0) return c.json({ systems: [], refusal: "Nobody has voted yet." });
    const rated = bradleyTerry(votes, names, { draws: 200, random: new RandomStream(0, "arena") });
    const systems = names.map((system, index) => {
      const own = votes.filter((vote) => vote.systemA === system || vote.systemB === system);
      const won = own.filter(({ verdict, systemA }) => verdict === (systemA === system ? "a" : "b")).length;
      const ties = own.filter(({ verdict }) => verdict === "tie" || verdict === "both_bad").length;
      const counts = { battles: own.length, wins: won, ties, losses: own.length - won - ties };
      const rating = "ratings" in rated ? rated.ratings[index]! : null;
      const interval = "ratings" in rated ? rated.intervals[index]! : null;
      return { system, ...counts, rating, interval };
    });
    const order = systems.toSorted((x, y) => (y.rating ?? 0) - (x.rating ?? 0) || y.wins - x.wins);
    return c.json({ systems: order, refusal: "refusal" in rated ? rated.refusal : null });
  },
});

export const arenaRoutes: readonly Route[] = [battleRoute, voteRoute, flagRoute, leaderboardRoute];
