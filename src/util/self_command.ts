/** How this program starts itself again: as one executable, or as Bun with the entry file of the source tree.
 *  The engine and training jobs are children of the same binary, so that a crash there cannot take the server along. */
import { join } from "node:path";

/** True inside the executable that `./koala build` makes: its modules lie in Bun's embedded file system. */
export const isCompiled = import.meta.dir.startsWith("/$bunfs/");

/** The top folder of the source tree, or of the files embedded in the executable (migrations, native libraries). */
export const rootDirectory = isCompiled ? import.meta.dir : join(import.meta.dir, "..", "..");

/** The command line that runs `koala ...args`: `Bun.spawn(selfCommand("engine", "--model", directory))`. */
export function selfCommand(...args: string[]): string[] {
  if (isCompiled) return [process.execPath, ...args];
  return [process.execPath, join(rootDirectory, "src", "cli", "main.ts"), ...args];
}
