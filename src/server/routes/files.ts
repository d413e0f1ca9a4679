/** /v1/files: a form streamed to disk, a row beside it, and both read, listed and deleted. */
import { extname } from "node:path";
import type { Context } from "hono";
import { RequestError } from "../../util/errors.ts";
import { addFile, findFile, listFiles, newFileId, removeFile, type StoredFile } from "../../store/files.ts";
import { fineTuningOf, type FineTuning } from "../fine_tuning.ts";
import { readForm } from "../multipart.ts";
import { cursorFault, readQuery, unixSeconds } from "../query.ts";
import { type Call, defineRoute } from "../route.ts";
import {
  deletedSchema,
  fileFieldsSchema,
  fileFormSchema,
  fileListSchema,
  fileQuerySchema,
  fileSchema,
} from "../schema/files.ts";
import { validate } from "../validate.ts";

const tag = "Fine-tuning";

export const createFileRoute = defineRoute({
  method: "post",
  path: "/v1/files",
  operationId: "createFile",
  tag,
  summary: "Upload a file",
  work: true,
  form: fileFormSchema,
  response: fileSchema,
  handle: async (c, call) => c.json(await receive(c, call)),
});

export const filesRoute = defineRoute({
  method: "get",
  path: "/v1/files",
  operationId: "listFiles",
  tag,
  summary: "The files",
  query: fileQuerySchema,
  response: fileListSchema,
  handle: async (c, call) => {
    const { store } = fineTuningOf(call.context);
    const page = await listFiles(store, readQuery(c, fileQuerySchema));
    if (page === "no such cursor") throw cursorFault();
    const data = page.rows.map(describeFile);
    const ends = { first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
    return c.json({ object: "list", data, ...ends, has_more: page.hasMore });
  },
});

export const fileRoute = defineRoute({
  method: "get",
  path: "/v1/files/:id",
  operationId: "retrieveFile",
  tag,
  summary: "One file's description",
  response: fileSchema,
  handle: async (c, call) => c.json(describeFile(await fileOf(fineTuningOf(call.context), idOf(c)))),
});

export const fileContentRoute = defineRoute({
  method: "get",
  path: "/v1/files/:id/content",
  operationId: "downloadFile",
  tag,
  summary: "One file's bytes",
  contentType: "application/octet-stream",
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    const file = await fileOf(tuning, idOf(c));
    const name = encodeURIComponent(file.filename);
    return new Response(Bun.file(tuning.area.path(file.id)), {
      headers: {
        "content-type": "application/octet-stream",
        "content-disposition": `attachment; filename*=UTF-8''${name}`,
      },
    });
  },
});

export const deleteFileRoute = defineRoute({
  method: "delete",
  path: "/v1/files/:id",
  operationId: "deleteFile",
  tag,
  summary: "Delete a file; jobs that use it keep its bytes until they end",
  response: deletedSchema("file"),
  handle: async (c, call) => {
    const { store, area } = fineTuningOf(call.context);
    const id = idOf(c);
    if (!(await removeFile(store, id))) throw noFile(id);
    await area.remove(id);
    return c.json({ id, object: "file", deleted: true });
  },
});

async function receive(c: Context, call: Call<unknown>) {
  const { store, area } = fineTuningOf(call.context);
  const id = newFileId();
  const bytesMax = call.context.limits.uploadBytesMax;
  try {
    const file = await area.write(id, async (write) => {
      const form = await readForm(c.req.raw, { fileField: "file", fileBytesMax: bytesMax, write });
      const fields = validate(fileFieldsSchema, nested(form.fields), { lenient: false }).value;
      if (form.file === null)
        throw new RequestError("file is required.", { param: "file", code: "missing_required_parameter" });
      checkName(form.file.filename, fields.purpose, "file");
      const now = new Date();
      const expires = fields.expires_after && new Date(now.getTime() + fields.expires_after.seconds * 1000);
      return {
        id,
        filename: form.file.filename,
        purpose: fields.purpose,
        bytes: form.file.bytes,
        createdAt: now,
        expiresAt: expires ?? null,
      } satisfies StoredFile;
    });
    await addFile(store, file);
    return describeFile(file);
  } catch (error) {
    await area.remove(id);
    throw error;
  }
}

/** `expires_after[seconds]` = "3600" as `{ expires_after: { seconds: 3600 } }`. */
function nested(fields: ReadonlyMap<string, string>): Record<string, unknown> {
  const body: Record<string, unknown> = {};
  for (const [name, value] of fields) {
    const part = /^expires_after\[(anchor|seconds)\]$/.exec(name)?.[1];
    if (part === undefined) Object.defineProperty(body, name, { value, enumerable: true });
    else
      body["expires_after"] = {
        ...(body["expires_after"] as object | undefined),
        [part]: part === "seconds" ? Number(value) : value,
      };
  }
  return body;
}

/** Clients name training data *.jsonl; anything else is nearly always the wrong file. */
export function checkName(filename: string, purpose: string, param: string): void {
  if (filename === "" || /[\p{Cc}/\\]/u.test(filename) || Buffer.byteLength(filename) > 255)
    throw new RequestError(
      "The file's name must have 1 to 255 bytes, without slashes and control characters.",
      { param, code: "invalid_value" },
    );
  if (purpose !== "fine-tune" || extname(filename).toLowerCase() === ".jsonl") return;
  throw new RequestError(
    `Training data must be a .jsonl file, but the name is ${JSON.stringify(filename.slice(0, 100))}.`,
    { param, code: "invalid_file_format" },
  );
}

export async function fileOf(tuning: FineTuning, id: string): Promise<StoredFile> {
  const found = await findFile(tuning.store, id);
  if (found === null) throw noFile(id);
  return found;
}

const noFile = (id: string): RequestError =>
  new RequestError(`No such File object: ${id.slice(0, 100)}`, { status: 404, param: "id" });

const idOf = (c: Context): string => c.req.param("id") ?? "";

export function describeFile(file: StoredFile) {
  return {
    id: file.id,
    object: "file",
    bytes: file.bytes,
    created_at: unixSeconds(file.createdAt),
    expires_at: file.expiresAt && unixSeconds(file.expiresAt),
    filename: file.filename,
    purpose: file.purpose,
    status: "processed",
    status_details: null,
  };
}
