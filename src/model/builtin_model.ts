/** The model that comes with Koala: a folder of the source tree, or files inside the executable that are written to the user's
 *  cache once, because weights are mapped from a real file. Always: what is returned has the bytes that were built in. */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { isCompiled, rootDirectory } from "../util/self_command.ts";

export const builtinName = "koala-tiny";

/** Its folder. Throws UsageError where no folder can be written. */
export function builtinModel(): string {
  const folder = join(rootDirectory, "models", builtinName);
  return isCompiled ? extracted(folder) : folder;
}

function extracted(source: string): string {
  const files = new Map(readdirSync(source).map((name) => [name, readFileSync(join(source, name))]));
  const digest = createHash("sha256");
  for (const [name, bytes] of files) digest.update(name).update(bytes);
  const version = digest.digest("hex").slice(0, 16);
  for (const parent of cacheFolders()) {
    const target = join(parent, version, builtinName);
    if (isSame(target, files) || write(target, files)) return target;
  }
  throw new UsageError(
    `The built-in model cannot be written to ${cacheFolders().join(" or ")}. Set XDG_CACHE_HOME to a folder that can be.`,
  );
}

function cacheFolders(): string[] {
  const cache = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  return [join(cache, "koala", "models"), join(tmpdir(), `koala-models-${process.getuid?.() ?? 0}`)];
}

function isSame(folder: string, files: Map<string, Buffer>): boolean {
  return [...files].every(([name, bytes]) => {
    const path = join(folder, name);
    return existsSync(path) && readFileSync(path).equals(bytes);
  });
}

/** False where this parent cannot be written. Appears whole or not at all; a damaged copy is replaced. */
function write(target: string, files: Map<string, Buffer>): boolean {
  try {
    const parent = join(target, "..");
    mkdirSync(parent, { recursive: true, mode: 0o700 });
    const temporary = mkdtempSync(join(parent, ".new-"));
    for (const [name, bytes] of files) writeFileSync(join(temporary, name), bytes);
    rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
    return true;
  } catch {
    return isSame(target, files); // another process was faster
  }
}
