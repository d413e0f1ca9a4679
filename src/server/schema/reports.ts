/** POST /v1/reports: what a person reports, and the receipt. */
import { z } from "zod";
import { flagCategories } from "../../store/flags.ts";
import { FIELD } from "../limits.ts";
import { optional } from "./common.ts";

export const reportRequestSchema = z
  .strictObject({
    model: optional(z.string().max(FIELD.nameLength), "Who answered."),
    prompt: optional(z.string().max(100_000), "What was asked."),
    answer: z.string().max(200_000).describe("What was answered; empty where it was withheld."),
    category: z.enum(flagCategories),
    note: optional(z.string().max(2000), "What the person wants to say about it."),
  })
  .meta({ id: "ReportRequest" });

export const reportSchema = z
  .object({ id: z.string(), object: z.literal("report"), created: z.int() })
  .meta({ id: "Report" });
