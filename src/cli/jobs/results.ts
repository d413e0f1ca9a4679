/** The result file of a job: a CSV with a line a step, in the columns of OpenAI's result files. */
import { listMetrics } from "../../store/job_events.ts";
import { addFile, newFileId } from "../../store/files.ts";
import type { Store } from "../../store/store.ts";
import { FileArea } from "../../server/file_area.ts";

const columns = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"] as const;

/** Writes the file and its row; returns its id. */
export async function writeResultFile(store: Store, dataDirectory: string, jobId: string): Promise<string> {
  const rows = await listMetrics(store, jobId, { afterStep: -1, pointsMax: Number.MAX_SAFE_INTEGER });
  const lines = rows.map((row) => csvLine(row.data as Record<string, unknown>));
  const bytes = Buffer.from([columns.join(","), ...lines, ""].join("\n"));
  const id = newFileId();
  await new FileArea(dataDirectory).write(id, (write) => write(bytes));
  await addFile(store, {
    id,
    filename: "step_metrics.csv",
    purpose: "fine-tune-results",
    bytes: bytes.length,
    createdAt: new Date(),
    expiresAt: null,
  });
  return id;
}

/** Validation stands in the first line after it was measured. */
function csvLine(data: Record<string, unknown>): string {
  const validated = data["valid_step"] === Number(data["step"]) - 1;
  const values: Record<(typeof columns)[number], unknown> = {
    step: data["step"],
    train_loss: data["train_loss"],
    train_accuracy: data["train_mean_token_accuracy"],
    valid_loss: validated ? data["valid_loss"] : "",
    valid_mean_token_accuracy: validated ? data["valid_mean_token_accuracy"] : "",
  };
  return columns.map((column) => String(values[column] ?? "")).join(",");
}
