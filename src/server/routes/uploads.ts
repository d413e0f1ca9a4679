/** /v1/uploads: files larger than one request, in parts that may come side by side. */
import type { Context } from "hono";
import { RequestError } from "../../util/errors.ts";
import { newFileId, type StoredFile } from "../../store/files.ts";
import {
  addPart,
  addUpload,
  cancelUpload,
  completeUpload,
  findUpload,
  newPartId,
  partsOf,
  removeFinishedParts,
  type StoredUpload,
} from "../../store/uploads.ts";
import { fineTuningOf, type FineTuning } from "../fine_tuning.ts";
import { readForm } from "../multipart.ts";
import { unixSeconds } from "../query.ts";
import { defineRoute } from "../route.ts";
import {
  completeRequestSchema,
  partFormSchema,
  partSchema,
  uploadRequestSchema,
  uploadSchema,
} from "../schema/files.ts";
import { checkName, describeFile } from "./files.ts";

const tag = "Fine-tuning";
const partBytesMax = 64 * 2 ** 20;

export const createUploadRoute = defineRoute({
  method: "post",
  path: "/v1/uploads",
  operationId: "createUpload",
  tag,
  summary: "Begin a file that comes in parts",
  request: uploadRequestSchema,
  response: uploadSchema,
  handle: async (c, call) => {
    const { bytes, filename, mime_type: mimeType, purpose, expires_after: expires } = call.body;
    checkName(filename, purpose, "filename");
    const given = { bytes, filename, mimeType, purpose, fileSeconds: expires?.seconds ?? null };
    return c.json(describe(await addUpload(fineTuningOf(call.context).store, given), null));
  },
});

export const addPartRoute = defineRoute({
  method: "post",
  path: "/v1/uploads/:id/parts",
  operationId: "addUploadPart",
  tag,
  summary: "Add a part",
  work: true,
  form: partFormSchema,
  response: partSchema,
  handle: async (c, call) => {
    const { store, area } = fineTuningOf(call.context);
    const upload = await uploadOf(fineTuningOf(call.context), idOf(c));
    if (statusOf(upload) !== "pending") throw notPending(upload);
    const id = newPartId();
    const options = { fileField: "data", fileBytesMax: partBytesMax };
    const form = await area.write(id, (write) => readForm(c.req.raw, { ...options, write }));
    const part = { id, uploadId: upload.id, bytes: form.file?.bytes ?? 0, createdAt: new Date() };
    const kept = form.file !== null && (await addPart(store, part));
    if (!kept) await area.remove(id);
    if (form.file === null)
      throw new RequestError("data is required.", { param: "data", code: "missing_required_parameter" });
    if (!kept) throw notPending(await uploadOf(fineTuningOf(call.context), upload.id));
    const created = unixSeconds(part.createdAt);
    return c.json({ id, object: "upload.part", created_at: created, upload_id: upload.id });
  },
});

export const completeUploadRoute = defineRoute({
  method: "post",
  path: "/v1/uploads/:id/complete",
  operationId: "completeUpload",
  tag,
  summary: "Make the file of the parts",
  work: true,
  request: completeRequestSchema,
  response: uploadSchema,
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    const upload = await uploadOf(tuning, idOf(c));
    if (statusOf(upload) !== "pending") throw notPending(upload);
    const file = await joined(tuning, upload, call.body.part_ids, call.body.md5 ?? null).catch(
      async (error: unknown) => {
        // Another request has ended it meanwhile, and the parts went with it.
        const now = await uploadOf(tuning, upload.id);
        throw statusOf(now) === "pending" ? error : notPending(now);
      },
    );
    if (!(await completeUpload(tuning.store, upload.id, file))) {
      await tuning.area.remove(file.id);
      throw notPending(await uploadOf(tuning, upload.id));
    }
    await dropParts(tuning);
    return c.json(describe({ ...upload, status: "completed", fileId: file.id }, file));
  },
});

export const cancelUploadRoute = defineRoute({
  method: "post",
  path: "/v1/uploads/:id/cancel",
  operationId: "cancelUpload",
  tag,
  summary: "Give an upload up; its parts are deleted",
  response: uploadSchema,
  handle: async (c, call) => {
    const tuning = fineTuningOf(call.context);
    const upload = await uploadOf(tuning, idOf(c));
    if (!(await cancelUpload(tuning.store, upload.id))) throw notPending(await uploadOf(tuning, upload.id));
    await dropParts(tuning);
    return c.json(describe({ ...upload, status: "cancelled" }, null));
  },
});

/** Those of uploads that have ended: their bytes would count twice. */
async function dropParts({ store, area }: FineTuning): Promise<void> {
  for (const id of await removeFinishedParts(store, new Date())) await area.remove(id);
}

/** The parts' bytes as a file, checked against what was announced. */
async function joined(
  { store, area }: FineTuning,
  upload: StoredUpload,
  partIds: readonly string[],
  md5: string | null,
): Promise<StoredFile> {
  const parts = new Map((await partsOf(store, upload.id)).map((part) => [part.id, part]));
  partIds.forEach((id, i) => {
    if (!parts.has(id) || partIds.indexOf(id) < i)
      throw new RequestError(
        `part_ids[${i}] is ${parts.has(id) ? "named twice" : `no part of ${upload.id}`}.`,
        { param: `part_ids[${i}]`, code: "invalid_value" },
      );
  });
  const sum = partIds.reduce((total, id) => total + parts.get(id)!.bytes, 0);
  if (sum !== upload.bytes)
    throw new RequestError(
      `The parts have ${sum} bytes together, but the upload was announced with ${upload.bytes}.`,
      { param: "part_ids", code: "size_mismatch" },
    );
  const now = new Date();
  const expiresAt = upload.fileSeconds === null ? null : new Date(now.getTime() + upload.fileSeconds * 1000);
  const { filename, purpose, bytes } = upload;
  const file = { id: newFileId(), filename, purpose, bytes, createdAt: now, expiresAt };
  const made = await area.join(file.id, partIds);
  if (md5 === null || made.md5 === md5.toLowerCase()) return file;
  await area.remove(file.id);
  throw new RequestError(`The MD5 of the parts together is ${made.md5}, not the one given.`, {
    param: "md5",
    code: "checksum_mismatch",
  });
}

async function uploadOf(tuning: FineTuning, id: string): Promise<StoredUpload> {
  const found = await findUpload(tuning.store, id);
  if (found !== null) return found;
  throw new RequestError(`No such Upload object: ${id.slice(0, 100)}`, { status: 404, param: "id" });
}

const idOf = (c: Context): string => c.req.param("id") ?? "";

function statusOf(upload: StoredUpload): string {
  return upload.status === "pending" && upload.expiresAt <= new Date() ? "expired" : upload.status;
}

const notPending = (upload: StoredUpload): RequestError =>
  new RequestError(`The upload ${upload.id} is ${statusOf(upload)}; make a new one.`, {
    param: "id",
    code: "upload_not_pending",
  });

function describe(upload: StoredUpload, file: StoredFile | null) {
  return {
    id: upload.id,
    object: "upload",
    bytes: upload.bytes,
    created_at: unixSeconds(upload.createdAt),
    expires_at: unixSeconds(upload.expiresAt),
    filename: upload.filename,
    purpose: upload.purpose,
    status: statusOf(upload),
    file: file && describeFile(file),
  };
}
