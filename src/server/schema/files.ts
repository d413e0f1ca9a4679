/** Files and uploads, as OpenAI's API has them. */
import { z } from "zod";
import { filePurposes } from "../../store/files.ts";
import { optional } from "./common.ts";

const day = 86_400;

/** What a client may upload; results are the server's own. */
export const uploadPurposes = filePurposes.filter(
  (purpose) => !["assistants_output", "batch_output", "fine-tune-results"].includes(purpose),
);

const purposeSchema = z.enum(uploadPurposes).describe('Training data is "fine-tune".');

const expiresAfterSchema = z
  .strictObject({
    anchor: z.literal("created_at"),
    seconds: z
      .int()
      .min(3600)
      .max(30 * day)
      .describe("From an hour to thirty days."),
  })
  .describe("When the file is deleted by itself.");

export const fileSchema = z
  .object({
    id: z.string(),
    object: z.literal("file"),
    bytes: z.int(),
    created_at: z.int(),
    expires_at: z.int().nullable(),
    filename: z.string(),
    purpose: z.string(),
    status: z.literal("processed").describe("Deprecated by OpenAI, and waited for by its clients."),
    status_details: z.null(),
  })
  .meta({ id: "File" });

export const fileListSchema = z
  .object({
    object: z.literal("list"),
    data: z.array(fileSchema),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  })
  .meta({ id: "FileList" });

export const fileFormSchema = z
  .strictObject({
    file: z
      .string()
      .meta({ format: "binary" })
      .describe("At most 512 MB; larger files come through /v1/uploads."),
    purpose: purposeSchema,
    "expires_after[anchor]": optional(z.literal("created_at"), "Together with the seconds."),
    "expires_after[seconds]": optional(
      z
        .int()
        .min(3600)
        .max(30 * day),
      "From an hour to thirty days.",
    ),
  })
  .meta({ id: "FileForm" });

/** The form's fields besides the file, gathered into an object. */
export const fileFieldsSchema = z.strictObject({
  purpose: purposeSchema,
  expires_after: expiresAfterSchema.optional(),
});

export const fileQuerySchema = z.strictObject({
  purpose: z.enum(filePurposes).optional().describe("Only files of this purpose."),
  limit: z.coerce.number().int().min(1).max(10_000).default(10_000),
  order: z.enum(["asc", "desc"]).default("desc").describe("By time of creation."),
  after: z.string().optional().describe("The last id of the page before."),
});

export const deletedSchema = (object: string) =>
  z.object({ id: z.string(), object: z.literal(object), deleted: z.literal(true) });

const fileBytesMax = 8 * 2 ** 30;

export const uploadRequestSchema = z
  .strictObject({
    bytes: z.int().min(1).max(fileBytesMax).describe("Of the whole file, at most 8 GB."),
    filename: z.string().min(1).max(255),
    mime_type: z.string().min(1).max(255).describe("Kept, without effect."),
    purpose: purposeSchema,
    expires_after: optional(expiresAfterSchema, "Counted from when the file is complete."),
  })
  .meta({ id: "UploadRequest" });

export const uploadSchema = z
  .object({
    id: z.string(),
    object: z.literal("upload"),
    bytes: z.int(),
    created_at: z.int(),
    expires_at: z.int().describe("An hour after it was made."),
    filename: z.string(),
    purpose: z.string(),
    status: z.enum(["pending", "completed", "cancelled", "expired"]),
    file: fileSchema.nullable(),
  })
  .meta({ id: "Upload" });

export const partFormSchema = z
  .strictObject({ data: z.string().meta({ format: "binary" }).describe("At most 64 MB.") })
  .meta({ id: "PartForm" });

export const partSchema = z
  .object({ id: z.string(), object: z.literal("upload.part"), created_at: z.int(), upload_id: z.string() })
  .meta({ id: "UploadPart" });

export const completeRequestSchema = z
  .strictObject({
    part_ids: z.array(z.string().max(64)).min(1).max(10_000).describe("In the order of the file."),
    md5: optional(z.string().regex(/^[0-9a-fA-F]{32}$/), "Of the whole file; refused where it differs."),
  })
  .meta({ id: "CompleteUploadRequest" });
