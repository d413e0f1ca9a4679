/** Any service that speaks OpenAI's POST /v1/moderations, asked over HTTP: its scores and its own flags are taken over. */
import { z } from "zod";
import { categories, type Category, isCategory } from "../../eval/moderation/categories.ts";
import { UsageError } from "../../util/errors.ts";
import { type Backend, type Judgement, ModerationError } from "./backend.ts";

const answerSchema = z.object({
  results: z.array(
    z.object({
      flagged: z.boolean(),
      categories: z.record(z.string(), z.boolean().nullable()),
      category_scores: z.record(z.string(), z.number().nullable()),
    }),
  ),
});

export interface RemoteOptions {
  apiKey?: string | null;
  /** Left out of the request where it is null. */
  model?: string | null;
}

/** `address`: of the route itself, or of the API's root (…/v1). */
export function remoteBackend(address: string, options: RemoteOptions = {}): Backend {
  const url = routeOf(address);
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (options.apiKey) headers["authorization"] = `Bearer ${options.apiKey}`;
  const judge: Backend["judge"] = async (texts, { signal }) => {
    const body = JSON.stringify({ input: texts, ...(options.model ? { model: options.model } : {}) });
    const response = await fetch(url, { method: "POST", headers, body, signal, redirect: "error" });
    if (!response.ok)
      throw new ModerationError(
        "unavailable",
        `The moderation service answered with status ${response.status}.`,
      );
    const answer = answerSchema.safeParse(await response.json().catch(() => null));
    if (!answer.success || answer.data.results.length !== texts.length)
      throw new ModerationError("bad_answer", "The moderation service's answer is not in OpenAI's shape.");
    return answer.data.results.map(judgementOf);
  };
  return { name: "url", categories, charsMax: 20_000, judge };
}

function routeOf(address: string): string {
  if (!URL.canParse(address) || !/^https?:$/.test(new URL(address).protocol))
    throw new UsageError(
      `--moderation url:${address} is no http address, as url:https://api.openai.com/v1 is.`,
    );
  const url = new URL(address);
  if (!url.pathname.endsWith("/moderations"))
    url.pathname = `${url.pathname.replace(/\/$/, "").replace(/\/v1$/, "")}/v1/moderations`;
  return url.href;
}

/** A service that flags without naming a category of ours must not pass: harassment stands for it. */
function judgementOf(result: z.output<typeof answerSchema>["results"][number]): Judgement {
  const scores = new Map<Category, number>();
  for (const [name, score] of Object.entries(result.category_scores))
    if (isCategory(name) && score !== null) scores.set(name, score);
  const named = Object.entries(result.categories).flatMap(([name, is]) =>
    is && isCategory(name) ? [name] : [],
  );
  return {
    scores,
    flagged: new Set<Category>(result.flagged && named.length === 0 ? ["harassment"] : named),
  };
}
