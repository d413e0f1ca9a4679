/** GET /v1/models and /v1/models/{id}. */

import type { ServedModel } from "../context.ts";
import { defineRoute } from "../route.ts";
import { modelListSchema, modelSchema, type Model } from "../schema/models.ts";

export const modelsRoute = defineRoute({
  method: "get",
  path: "/v1/models",
  operationId: "listModels",
  tag: "OpenAI",
  summary: "The served models",
  response: modelListSchema,
  handle: (c, call) => c.json({ object: "list", data: call.context.models.list().map(describe) }),
});

export const modelRoute = defineRoute({
  method: "get",
  path: "/v1/models/:id{.+}",
  operationId: "retrieveModel",
  tag: "OpenAI",
  summary: "One served model, by id or alias",
  response: modelSchema,
  handle: (c, call) => c.json(describe(call.context.models.find(c.req.param("id")))),
});

function describe(model: ServedModel): Model {
  const { info, state } = model.engine;
  return {
    id: model.id,
    object: "model",
    created: model.created,
    owned_by: "koala",
    aliases: [...model.aliases],
    max_model_len: model.maxModelLen,
    has_chat_template: model.template !== null,
    state,
    parameter_count: info?.parameterCount ?? null,
    dtype: info?.dtype ?? null,
    device: info?.device ?? null,
  };
}
