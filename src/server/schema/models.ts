/** GET /v1/models and /v1/models/{id}. */

import { z } from "zod";

export const modelSchema = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int(),
    owned_by: z.string(),
    parent: z.string().nullable().describe("The model that it was tuned from."),
    description: z.string().nullable().describe("What people should know before they believe it."),
    aliases: z.array(z.string()),
    max_model_len: z.int().describe("Prompt and answer together, in tokens."),
    has_chat_template: z.boolean(),
    state: z.enum(["loading", "ready", "failed", "stopped"]),
    parameter_count: z.int().nullable(),
    dtype: z.string().nullable(),
    device: z.string().nullable(),
  })
  .meta({ id: "Model" });
export type Model = z.infer<typeof modelSchema>;

export const modelListSchema = z
  .object({ object: z.literal("list"), data: z.array(modelSchema) })
  .meta({ id: "ModelList" });
