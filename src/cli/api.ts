/** The API that `chat` and `generate` speak to: a server elsewhere by its URL, or a model loaded for this command. */
import { createServer } from "../server/app.ts";
import { ModelRegistry, serverContext } from "../server/context.ts";
import { UsageError } from "../util/errors.ts";
import { openServedModel, type ServedModelFlags } from "./served_model.ts";

export interface Api {
  modelId: string;
  /** Posts JSON and streams what comes back: the parsed `data:` events, or the one JSON answer. Throws UsageError with the server's sentence. */
  post(path: string, body: Record<string, unknown>, signal?: AbortSignal): AsyncGenerator<ApiChunk>;
  /** The JSON that a path answers with; null where it answers with anything else. */
  get(path: string): Promise<unknown>;
  close(): Promise<void>;
}

/** What both kinds of completion share. */
export interface ApiChunk {
  choices: { text?: string; delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
  error?: { message: string };
}

type Send = (path: string, init: RequestInit) => Promise<Response>;

/** `model` may be a URL (http://host:port), a folder or a hub name. */
export async function openApi(model: string, flags: ServedModelFlags & { apiKey?: string }): Promise<Api> {
  if (/^https?:\/\//.test(model)) return remoteApi(model.replace(/\/(v1\/?)?$/, ""), flags.apiKey);
  const served = await openServedModel(model, flags);
  const app = createServer(serverContext({ models: new ModelRegistry([served]) }));
  try {
    await served.engine.ready();
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const send: Send = async (path, init) => app.request(`http://127.0.0.1${path}`, init);
  return {
    modelId: served.id,
    post: poster(send, {}),
    get: getter(send, {}),
    close: () => served.engine.stop(),
  };
}

async function remoteApi(url: string, apiKey?: string): Promise<Api> {
  const headers: Record<string, string> = apiKey ? { authorization: `Bearer ${apiKey}` } : {};
  const send: Send = async (path, init) => {
    try {
      return await fetch(url + path, init);
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      const { code, message } = error as Error & { code?: string };
      throw new UsageError(`No server answers at ${url} (${code ?? message}). Is koala serve running there?`);
    }
  };
  const answer = await send("/v1/models", { headers });
  const models = (await answer.json().catch(() => null)) as {
    data?: { id: string }[];
    error?: { message: string };
  } | null;
  const modelId = models?.data?.[0]?.id;
  if (!modelId) throw new UsageError(models?.error?.message ?? `${url} serves no model behind /v1/models.`);
  return { modelId, post: poster(send, headers), get: getter(send, headers), close: async () => {} };
}

function getter(send: Send, headers: Record<string, string>): Api["get"] {
  return async (path) => {
    const answer = await send(path, { headers });
    return answer.ok ? answer.json().catch(() => null) : null;
  };
}

function poster(send: Send, headers: Record<string, string>): Api["post"] {
  return async function* (path, body, signal) {
    const answer = await send(path, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify(body),
      ...(signal ? { signal } : {}),
    });
    if (!answer.ok || !answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      const json = (await answer.json()) as ApiChunk;
      if (json.error) throw new UsageError(json.error.message);
      return yield json;
    }
    for await (const chunk of serverSentEvents(answer.body as ReadableStream<Uint8Array>)) {
      if (chunk.error) throw new UsageError(chunk.error.message);
      yield chunk;
    }
  };
}

async function* serverSentEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ApiChunk> {
  let buffered = "";
  for await (const text of body.pipeThrough(
    new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>,
  )) {
    const lines = (buffered + text).split("\n");
    buffered = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      yield JSON.parse(line.slice(6)) as ApiChunk;
    }
  }
}
