/** POST /v1/moderations and the chat parameter `moderation`, as in OpenAI's specification. */
import { z } from "zod";
import { categories } from "../../eval/moderation/categories.ts";
import { FIELD } from "../limits.ts";
import { optional } from "./common.ts";

const part = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("text"), text: z.string() }),
  z.strictObject({ type: z.literal("image_url"), image_url: z.strictObject({ url: z.string() }) }),
]);

const modelName = optional(
  z.string().min(1).max(FIELD.nameLength),
  "omni-moderation-latest or the name of one back end, such as linear. Default: all that this server has.",
);

export const moderationRequestSchema = z
  .strictObject({
    input: z
      .union([
        z.string(),
        z.array(z.string()).min(1).max(FIELD.embeddings),
        z.array(part).min(1).max(FIELD.contentParts),
      ])
      .describe("A text, texts, or the parts of one message. Images are refused."),
    model: modelName,
  })
  .meta({ id: "ModerationRequest" });

const each = <S extends z.ZodType>(schema: S) =>
  z.object(
    Object.fromEntries(categories.map((name) => [name, schema])) as Record<(typeof categories)[number], S>,
  );

const resultFields = {
  flagged: z.boolean(),
  categories: each(z.boolean().nullable()).describe("null: no back end here knows this category."),
  category_scores: each(z.number()),
  category_applied_input_types: each(z.array(z.literal("text"))),
};
export const moderationSchema = z
  .object({ id: z.string(), model: z.string(), results: z.array(z.object(resultFields)) })
  .meta({ id: "Moderation", description: "One result a text; parts of a message share one." });
export type Moderation = z.infer<typeof moderationSchema>;

const mode = z.strictObject({ mode: z.enum(["score", "block"]) });
export const moderationParamSchema = z
  .strictObject({
    model: modelName,
    policy: optional(
      z.strictObject({
        input: optional(mode, "block: a flagged input is not answered."),
        output: optional(mode, "block: text is held back until it is judged, and ends where it is flagged."),
      }),
      "Default: score for both.",
    ),
  })
  .meta({ id: "ModerationParameter" });
export type ModerationParam = {
  model?: string | null | undefined;
  policy?:
    | { input?: z.infer<typeof mode> | null | undefined; output?: z.infer<typeof mode> | null | undefined }
    | null
    | undefined;
};

const side = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("moderation_results"),
    model: z.string(),
    results: z.array(
      z.object({
        type: z.literal("moderation_result"),
        model: z.string(),
        ...resultFields,
        categories: each(z.boolean()),
      }),
    ),
  }),
  z.object({ type: z.literal("error"), code: z.string(), message: z.string() }),
]);
export const chatModerationSchema = z
  .object({ input: side, output: side })
  .meta({ id: "ChatModeration", description: "One result for the input, one a choice for the output." });
export type ChatModeration = z.infer<typeof chatModerationSchema>;
