/** Which moderator judges for a request: the server's own, else the built-in rules and classifier; by name where one is given. */
import { RequestError } from "../../util/errors.ts";
import type { ServerContext } from "../context.ts";
import type { Call } from "../route.ts";
import type { ModerationParam } from "../schema/moderations.ts";
import { linearBackend } from "./linear.ts";
import { type ModeratedCall, moderatedCall } from "./moderated_call.ts";
import { Moderator } from "./moderator.ts";
import { rulesBackend } from "./rules.ts";

/** OpenAI's names, for clients that send them; ours is what /v1/moderations answers with. */
const wholeChain = [
  "omni-moderation-latest",
  "omni-moderation-2024-09-26",
  "text-moderation-latest",
  "text-moderation-stable",
  "koala",
];

let builtin: Moderator | null = null;

export function namedModerator(context: ServerContext, name: string | null | undefined): Moderator {
  const chain =
    context.moderation?.moderator ?? (builtin ??= new Moderator([rulesBackend(), linearBackend()]));
  if (name === null || name === undefined || wholeChain.includes(name) || name === chain.model) return chain;
  const one = chain.only(name);
  if (one !== null) return one;
  const there = [...wholeChain.slice(0, 1), ...chain.backends.map((backend) => backend.name)].join(", ");
  throw new RequestError(
    `The moderation model ${JSON.stringify(name.slice(0, 200))} does not exist here. There are: ${there}.`,
    { status: 404, param: "model", code: "model_not_found" },
  );
}

/** For a request that may ask for moderation itself. null: it is not moderated. */
export function moderationOf(call: Call<unknown>, param?: ModerationParam | null): ModeratedCall | null {
  const asked = param ? { moderator: namedModerator(call.context, param.model), param } : null;
  return moderatedCall(call, call.context.moderation, asked);
}
