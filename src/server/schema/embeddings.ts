/** POST /v1/embeddings. */

import { z } from "zod";
import { FIELD } from "../limits.ts";
import { NO_EFFECT, optional } from "./common.ts";

const tokenId = z.int().min(0).max(FIELD.int32);

export const embeddingRequestSchema = z
  .strictObject({
    model: optional(z.string().min(1).max(FIELD.nameLength), "A name from /v1/models."),
    input: z
      .union([
        z.string().min(1),
        z.array(z.string().min(1)).min(1).max(FIELD.embeddings),
        z.array(tokenId).min(1),
        z.array(z.array(tokenId).min(1)).min(1).max(FIELD.embeddings),
      ])
      .describe("A text, token ids, or a batch of either."),
    encoding_format: optional(z.enum(["float", "base64"]), "base64: float32, little-endian."),
    dimensions: optional(z.int().min(1).max(FIELD.int32), "Only the model's own hidden size."),
    normalize: optional(z.boolean(), "Scale to length 1, as OpenAI's are. Default true."),
    add_special_tokens: optional(z.boolean(), "Put the model's BOS before a text. Default true."),
    cache_salt: optional(
      z.string().max(FIELD.nameLength),
      "Prefixes are shared only between requests of equal salt.",
    ),
    user: optional(z.string().max(1024), NO_EFFECT),
  })
  .meta({ id: "EmbeddingRequest" });
export type EmbeddingRequest = z.infer<typeof embeddingRequestSchema>;

export const embeddingResponseSchema = z
  .object({
    object: z.literal("list"),
    data: z.array(
      z.object({
        object: z.literal("embedding"),
        index: z.int(),
        embedding: z.union([z.array(z.number()), z.string()]),
      }),
    ),
    model: z.string(),
    usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int() }),
  })
  .meta({ id: "EmbeddingResponse" });
export type EmbeddingResponse = z.infer<typeof embeddingResponseSchema>;
