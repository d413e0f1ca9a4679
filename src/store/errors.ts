/** What the drivers' errors mean, and the sentence a person reads for those that a person can mend. */
import { UsageError } from "../util/errors.ts";

/** A UsageError where the cause is outside this program, otherwise `error` as it is. `name` is the database's. */
export function explained(error: unknown, name: string): unknown {
  for (const cause of causes(error)) {
    const sentence = sentenceFor(cause, name);
    if (sentence !== null) return new UsageError(sentence, { cause: error });
  }
  return error;
}

/** A row with this unique value exists. */
export const isUniqueViolation = (error: unknown): boolean =>
  hasCode(error, "SQLITE_CONSTRAINT_UNIQUE") || hasCode(error, "23505");

export const isMissingTable = (error: unknown): boolean =>
  hasCode(error, "42P01") || causes(error).some(({ message }) => message.startsWith("no such table: "));

/** Whether the error, or what drizzle wrapped in it, has this code; PostgreSQL's are in `errno`. */
export const hasCode = (error: unknown, code: string): boolean =>
  causes(error).some((cause) => cause.code === code || cause.errno === code);

interface DriverError extends Error {
  code?: string;
  errno?: string | number;
}

function causes(error: unknown): DriverError[] {
  return error instanceof Error ? [error, ...causes(error.cause)] : [];
}

/** null: not something that a person can mend from outside. */
function sentenceFor({ code, errno, message }: DriverError, name: string): string | null {
  switch (code) {
    case "SQLITE_NOTADB":
      return `${name} is not a database. Name another file.`;
    case "SQLITE_CORRUPT":
      return `The database ${name} is damaged (${message}). Restore it from a backup, or name another file.`;
    case "SQLITE_BUSY":
      return `The database ${name} is locked by another process. Wait until that process is done, then try again.`;
    case "SQLITE_FULL":
      return `There is no space left for the database ${name}. Make room, then try again.`;
    case "SQLITE_CANTOPEN":
    case "EISDIR":
    case "ENOTDIR":
    case "EEXIST":
    case "ENOENT":
      return `${name} cannot be opened as a database: it must be a file, or its folder one that can be made.`;
    case "SQLITE_READONLY":
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return `The database ${name} cannot be written by this user. Change the permissions of the file and its folder, or name another file.`;
    case "ERR_POSTGRES_SERVER_ERROR":
      return serverSentence(String(errno), message, name);
    default:
      return code !== undefined && /^ERR_POSTGRES_(CONNECTION|AUTHENTICATION|TLS|PASSWORD)/.test(code)
        ? `${name} cannot be reached: ${message}. Check the address and that a PostgreSQL server runs there.`
        : null;
  }
}

/** By SQLSTATE class: refused logins, missing databases, missing rights, tables in the way, no resources, shutting down. */
function serverSentence(state: string, message: string, name: string): string | null {
  if (!/^(28|3D|53|57|42501|42P07)/.test(state)) return null;
  return `${name} refuses: ${message} (SQLSTATE ${state}). Check the address, the rights of its user and the server's log.`;
}
