/** GET /v1/models and /v1/models/{id}; DELETE for models that fine-tuning jobs made. */

import { RequestError } from "../../util/errors.ts";
import type { ServedModel } from "../context.ts";
import { organization } from "../job_objects.ts";
import { defineRoute } from "../route.ts";
import { deletedSchema } from "../schema/files.ts";
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

export const deleteModelRoute = defineRoute({
  method: "delete",
  path: "/v1/models/:id{.+}",
  operationId: "deleteModel",
  tag: "OpenAI",
  summary: "Delete a model that a fine-tuning job made; requests that run keep it until they end",
  response: deletedSchema("model"),
  handle: async (c, call) => {
    const { id, parent } = call.context.models.find(c.req.param("id"));
    if (!parent || !(await call.context.fineTuning?.deleteModel(id)))
      throw new RequestError(
        `The model ${id} was not made by a fine-tuning job here, so it cannot be deleted.`,
        {
          status: 403,
          type: "permission_error",
          param: "model",
          code: "model_not_owned",
        },
      );
    return c.json({ id, object: "model", deleted: true });
  },
});

function describe(model: ServedModel): Model {
  const { info, state } = model.engine;
  return {
    id: model.id,
    object: "model",
    created: model.created,
    owned_by: organization,
    parent: model.parent ?? null,
    description: model.description ?? null,
    aliases: [...model.aliases],
    max_model_len: model.maxModelLen,
    has_chat_template: model.template !== null,
    state,
    parameter_count: info?.parameterCount ?? null,
    dtype: info?.dtype ?? null,
    device: info?.device ?? null,
  };
}
