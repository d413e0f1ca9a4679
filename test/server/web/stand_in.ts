/** A server that speaks as much of the OpenAI API as the page uses, with answers chosen by the question's first word.
 *  Serves the real pages with their real headers; keeps every request body for the tests to look at. */
import { Hono } from "hono";
import { streamSSE } from "hono/streaming";
import { loadPages } from "../../../src/server/web/pages.ts";

interface Body {
  model: string;
  messages?: { role: string; content: string }[];
  prompt?: string;
  [name: string]: unknown;
}

export interface StandIn {
  url: string;
  requests: Body[];
  /** Answers that the client left before their end. */
  aborted: number;
  /** "": nobody needs a key. */
  apiKey: string;
  models: string[];
  stop: () => Promise<void>;
}

export const markdownAnswer = [
  "## Eucalyptus",
  "",
  "Koalas eat **about 500 g** of leaves a day, mostly from a [few species](https://example.org/eucalyptus):",
  "",
  "1. *Eucalyptus viminalis*, the manna gum",
  "2. *Eucalyptus camaldulensis*, the river red gum",
  "",
  "They sleep up to 20 hours, because the leaves are poor and `digestion` is slow.",
  "",
  "```python",
  "def energy(leaves_g: float) -> float:",
  '    """Kilojoules in the leaves of a day."""',
  "    return leaves_g * 8.1  # a rough figure",
  "```",
  "",
  "| animal | sleep (h) | food |",
  "|---|---|---|",
  "| koala | 20 | leaves |",
  "| sloth | 15 | leaves, buds |",
  "",
  "> Sleep is the best meditation.",
].join("\n");

export const hostileAnswer = [
  "<script>window.broken = 1</script>",
  '<img src="x" onerror="window.broken = 2">',
  "[press me](javascript:window.broken=3) and ![picture](https://example.org/spy.png)",
  '<iframe srcdoc="<script>parent.broken = 4</script>"></iframe> <svg onload="window.broken=5"><a xlink:href="javascript:alert(1)">x</a></svg>',
  '<form action="https://example.org"><button formaction="javascript:window.broken=6">ok</button></form>',
  "`<b onclick=alert(1)>`",
].join("\n\n");

export async function startStandIn(): Promise<StandIn> {
  const pages = await loadPages();
  const app = new Hono();
  const standIn: StandIn = {
    url: "",
    requests: [],
    aborted: 0,
    apiKey: "",
    models: ["koala-7b"],
    stop: async () => {},
  };
  const failedOnce = new Set<string>();
  const fail = (status: number, message: string, code: string | null, headers: Record<string, string> = {}) =>
    Response.json({ error: { message, type: "error", param: null, code } }, { status, headers });

  app.use("/v1/*", async (c, next) => {
    if (standIn.apiKey !== "" && c.req.header("authorization") !== `Bearer ${standIn.apiKey}`)
      return fail(401, "The Authorization header has no valid key.", "invalid_api_key");
    await next();
  });
  app.get("/v1/models", (c) =>
    c.json({
      object: "list",
      data: standIn.models.map((id) => ({ id, object: "model", has_chat_template: id !== "text-only" })),
    }),
  );
  app.post("/v1/:kind{chat/completions|completions}", async (c) => {
    const body = await c.req.json<Body>();
    standIn.requests.push(body);
    const question = body.messages?.at(-1)?.content ?? body.prompt ?? "";
    const word = question.split(/\s/)[0] ?? "";
    if (body.model === "base-model" && body.messages)
      return fail(400, "The model base-model has no chat template.", "no_chat_template");
    const once = (status: number, message: string, headers = {}) =>
      failedOnce.has(question) ? null : (failedOnce.add(question), fail(status, message, null, headers));
    const failure =
      word === "busy"
        ? once(429, "64 requests are waiting already", { "retry-after-ms": "1500" })
        : word === "restart"
          ? once(503, "The engine is restarting after a failure.")
          : null;
    return failure ?? streamSSE(c, (stream) => answer(word, question, body, stream, standIn));
  });
  app.get("/blank", (c) => c.html('<!doctype html><link rel="icon" href="data:,">'));
  for (const [path, page] of pages) app.get(path, () => new Response(page.body, { headers: page.headers }));

  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", idleTimeout: 0, fetch: app.fetch });
  standIn.url = server.url.href;
  standIn.stop = () => server.stop(true);
  return standIn;
}

async function answer(
  word: string,
  question: string,
  body: Body,
  stream: Parameters<Parameters<typeof streamSSE>[1]>[0],
  standIn: StandIn,
): Promise<void> {
  const chat = body.messages !== undefined;
  const chunk = (choice: object | null, rest: object = {}) =>
    stream.writeSSE({
      data: JSON.stringify({
        id: "x",
        model: body.model,
        choices: choice === null ? [] : [{ index: 0, ...choice }],
        ...rest,
      }),
    });
  const text = (piece: string) =>
    chunk(chat ? { delta: { content: piece }, finish_reason: null } : { text: piece, finish_reason: null });
  stream.onAbort(() => void standIn.aborted++);
  if (chat) await chunk({ delta: { role: "assistant", content: "" }, finish_reason: null });
  await stream.write(": ping\n\n");
  const pieces = piecesFor(word, question);
  const pauseMs = word === "slow" ? 25 : 2;
  for (const [index, piece] of pieces.entries()) {
    if (stream.aborted) return;
    if (word === "break" && index === 3) {
      await stream.writeSSE({
        data: JSON.stringify({
          error: { message: "The engine stopped: out of pages", type: "server_error" },
        }),
      });
      return;
    }
    if (word === "cut" && index === 3) return;
    await text(piece);
    await stream.sleep(pauseMs);
  }
  const finish_reason = word === "long" ? "length" : "stop";
  await chunk(chat ? { delta: {}, finish_reason } : { text: "", finish_reason });
  await chunk(null, {
    usage: { prompt_tokens: 12, completion_tokens: pieces.length, total_tokens: 12 + pieces.length },
  });
  await stream.writeSSE({ data: "[DONE]" });
}

function piecesFor(word: string, question: string): string[] {
  if (word === "markdown") return markdownAnswer.match(/[\s\S]{1,12}/g)!;
  if (word === "hostile") return hostileAnswer.match(/[\s\S]{1,9}/g)!;
  if (word === "slow") return Array.from({ length: 400 }, (_, index) => `word${index} `);
  return ["You said: ", ...question.split(/(?<= )/), ", and", " that is", " all."];
}
