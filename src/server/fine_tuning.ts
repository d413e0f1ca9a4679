/** What the routes of files, uploads and fine-tuning jobs need from whoever runs the server.
 *  The server itself knows neither training nor data: it writes rows, and others read them. */
import type { JobSource } from "../store/jobs.ts";
import type { StoredFile } from "../store/files.ts";
import type { Store } from "../store/store.ts";
import { RequestError } from "../util/errors.ts";
import type { ServerContext } from "./context.ts";
import type { FileArea } from "./file_area.ts";

export interface FineTuning {
  store: Store;
  area: FileArea;
  /** Puts a job's file by, so that it may be deleted while the job waits; its path, which ends in the file's name. */
  keepFile(jobId: string, kind: FileKind, file: StoredFile): Promise<string>;
  /** Forgets what was put by for a job that was not made. */
  dropFiles(jobId: string): Promise<void>;
  /** Processes that may train one job together. */
  ranksMax: number;
  /** Where a served or stored model's weights are; null: there is no such model to tune. */
  sourceOf(model: string): Promise<JobSource | null>;
  /** The queue has changed. */
  wake(): void;
  /** Serves the models that jobs have made by now. */
  serveNewModels(): Promise<void>;
  /** Stops serving a model and removes its files. False where there is none to delete. */
  deleteModel(id: string): Promise<boolean>;
}

export type FileKind = "training_file" | "validation_file";

export function fineTuningOf(context: ServerContext): FineTuning {
  if (context.fineTuning !== null) return context.fineTuning;
  throw new RequestError(
    "This server keeps no files and runs no jobs. Start it with --data-dir DIRECTORY to switch fine-tuning on.",
    { status: 501, code: "fine_tuning_off" },
  );
}
