/** EasyLM's language model server, field for field: young-geng/EasyLM, serving.py. `model` is our addition.
 *  What we do differently stands in each route's description, and why. */

import { z } from "zod";
import { FIELD } from "../limits.ts";
import { optional, seedSchema } from "./common.ts";

const texts = z.array(z.string()).min(1).max(FIELD.easylmBatch);
const model = optional(z.string().min(1).max(FIELD.nameLength), "A name from /v1/models.");
const temperature = optional(z.number().min(0).max(2), "Default 1.0.");
const seed = optional(seedSchema, "Same seed, same tokens.");

export const loglikelihoodRequestSchema = z
  .strictObject({
    model,
    prefix_text: optional(
      z.array(z.string()).max(FIELD.easylmBatch),
      "Contexts, one a text; empty where missing.",
    ),
    text: texts.describe("What is scored."),
    until: optional(z.null(), "null: EasyLM's clients share one request class."),
    temperature: optional(z.null(), "null"),
  })
  .meta({ id: "LoglikelihoodRequest" });

export const loglikelihoodResponseSchema = z
  .object({
    prefix_text: z.array(z.string()),
    text: z.array(z.string()),
    log_likelihood: z.array(z.number()),
    is_greedy: z.array(z.boolean()),
  })
  .meta({ id: "LoglikelihoodResponse" });

export const rollingRequestSchema = z.strictObject({ model, text: texts }).meta({ id: "RollingRequest" });
export const rollingResponseSchema = loglikelihoodResponseSchema
  .omit({ prefix_text: true })
  .meta({ id: "RollingResponse" });

export const generateRequestSchema = z
  .strictObject({
    model,
    prefix_text: texts,
    temperature,
    seed,
    max_length: optional(
      z.int().min(1).max(FIELD.int32),
      "Most new tokens; default: up to the end of the context.",
    ),
  })
  .meta({ id: "GenerateRequest" });

export const generateResponseSchema = z
  .object({ prefix_text: z.array(z.string()), output_text: z.array(z.string()), temperature: z.number() })
  .meta({ id: "GenerateResponse" });

export const greedyUntilRequestSchema = z
  .strictObject({
    model,
    prefix_text: texts,
    until: z
      .array(
        z.union([
          z.string().min(1).max(FIELD.stopLength),
          z.array(z.string().min(1).max(FIELD.stopLength)).max(FIELD.stops),
        ]),
      )
      .describe("One entry a prefix: the text, or texts, that end it."),
    max_length: optional(
      z.int().min(1).max(FIELD.int32),
      "Most new tokens; default 5000 or up to the end of the context.",
    ),
  })
  .meta({ id: "GreedyUntilRequest" });

export const greedyUntilResponseSchema = z
  .object({
    prefix_text: z.array(z.string()),
    until: z.array(z.union([z.string(), z.array(z.string())])),
    max_length: z.int(),
    output_text: z.array(z.string()),
  })
  .meta({ id: "GreedyUntilResponse" });

export const easylmChatRequestSchema = z
  .strictObject({
    model,
    prompt: z.string(),
    context: optional(z.string(), "What the last answer's `context` was; empty for a new dialogue."),
    temperature,
    seed,
  })
  .meta({ id: "EasyLmChatRequest" });

export const easylmChatResponseSchema = z
  .object({ response: z.string(), context: z.string(), temperature: z.number() })
  .meta({ id: "EasyLmChatResponse" });
