/** The fault of a file that a job was given: the sentence names file, line and reason, and the API says which file. */
import type { FileKind } from "../../server/fine_tuning.ts";
import type { JobError } from "../../store/jobs.ts";
import { UsageError } from "../../util/errors.ts";

export class InputError extends UsageError {
  constructor(
    message: string,
    readonly param: FileKind,
  ) {
    super(message);
  }
}

/** Does `work`; what it says against the data is said of the file `kind`. */
export async function blaming<T>(kind: FileKind, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof UsageError) throw new InputError(error.message, kind);
    throw error;
  }
}

export const inputError = ({ message, param }: InputError): JobError => ({
  code: "invalid_training_file",
  message,
  param,
});
