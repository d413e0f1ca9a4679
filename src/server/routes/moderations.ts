/** POST /v1/moderations: how much of each of 13 categories is in a text. */
import { RequestError } from "../../util/errors.ts";
import { ModeratedCall } from "../moderation/moderated_call.ts";
import { namedModerator } from "../moderation/default.ts";
import type { ModerationResult } from "../moderation/moderator.ts";
import { defineRoute } from "../route.ts";
import { type Moderation, moderationRequestSchema, moderationSchema } from "../schema/moderations.ts";

export const moderationsRoute = defineRoute({
  method: "post",
  path: "/v1/moderations",
  operationId: "createModeration",
  tag: "OpenAI",
  summary: "Judge texts",
  description:
    "Judged by the back ends of --moderation, else by the built-in rules and linear classifier, which is a default that is " +
    "better than nothing and no promise of safety. `model` in the answer names them and the categories that none of them knows.",
  work: true,
  request: moderationRequestSchema,
  response: moderationSchema,
  handle: async (c, call) => {
    const { input, model } = call.body;
    const moderator = namedModerator(call.context, model);
    const moderated = new ModeratedCall({
      context: call.context,
      requestId: call.requestId,
      moderator,
      input: "score",
      output: null,
      told: false,
    });
    const { results, error } = await moderated.judgeInput(0, () => textsOf(input), call.signal);
    if (error !== null)
      throw new RequestError(error.message, {
        status: 503,
        code: `moderation_${error.code}`,
        type: "server_error",
      });
    const body: Moderation = {
      id: `modr-${crypto.randomUUID()}`,
      model: moderator.model,
      results: results.map(openResult),
    };
    return c.json(body);
  },
});

type Part = { type: "text"; text: string } | { type: "image_url"; image_url: { url: string } };

function textsOf(input: string | string[] | Part[]): string[] {
  if (typeof input === "string") return [input];
  if (typeof input[0] === "string") return input as string[];
  const parts = (input as Part[]).map((part) => {
    if (part.type === "text") return part.text;
    throw new RequestError("Images cannot be judged here: this server's moderation reads text only.", {
      param: "input",
      code: "unsupported_input",
    });
  });
  return [parts.join("\n")];
}

/** OpenAI's type lets these two alone be null; false would claim that somebody looked. */
function openResult(result: ModerationResult): Moderation["results"][number] {
  const known = (name: "illicit" | "illicit/violent"): boolean | null =>
    result.category_applied_input_types[name].length === 0 ? null : result.categories[name];
  return {
    ...result,
    categories: {
      ...result.categories,
      illicit: known("illicit"),
      "illicit/violent": known("illicit/violent"),
    },
  };
}
