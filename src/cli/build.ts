/** `./koala build [OUT]`: everything in one executable, dist/koala, that needs no Bun, no packages and no compiler.
 *  Inside are the program, its page, the migrations and every native library that `build/` holds. */
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { BunPlugin } from "bun";
import { UsageError } from "../util/errors.ts";
import { rootDirectory } from "../util/self_command.ts";

/** Builds beside `out` and renames, so that a running executable can be replaced. */
export async function buildExecutable(out: string): Promise<void> {
  const temporary = `${out}.${process.pid}.tmp`;
  mkdirSync(dirname(out), { recursive: true });
  try {
    await Bun.build({
      entrypoints: [join(rootDirectory, "src", "cli", "main.ts")],
      target: "bun",
      minify: { whitespace: true, syntax: true },
      // Otherwise the page's library is its development build, a quarter larger.
      define: { ...versionStamp(), "process.env.NODE_ENV": '"production"' },
      plugins: [transformersWithoutRequire],
      compile: {
        outfile: temporary,
        assets: embeddedFiles(),
        // A .env or bunfig.toml in the folder where it happens to run must not change what the executable does.
        autoloadDotenv: false,
        autoloadBunfig: false,
        // Else packages that the user names (--moderation onnx) cannot find each other: nothing else is looked up on disk.
        autoloadPackageJson: true,
      },
    });
    renameSync(temporary, out);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Native libraries, migrations and the built-in model; they come to lie beside the program in the embedded file system. */
function embeddedFiles(): string[] {
  const build = join(rootDirectory, "build");
  const libraries = list(build).filter((name) => /^libkoala_(cpu|cuda)\.(so|dylib)$/.test(name));
  if (!libraries.some((name) => name.startsWith("libkoala_cpu."))) {
    throw new UsageError(`${build} holds no libkoala_cpu. Build it with: bun ffi/build.ts`);
  }
  const folders = ["migrations", "models"].map((name) => join(rootDirectory, name));
  return [
    ...libraries.map((name) => join(build, name)),
    ...folders.filter((folder) => list(folder).length > 0),
  ];
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // not there: nothing to embed
  }
}

/** The commit, where the sources come from git; "+" marks changes on top. */
function versionStamp(): Record<string, string> {
  const git = (...args: string[]) => {
    const { success, stdout } = Bun.spawnSync(["git", ...args], { cwd: rootDirectory, stderr: "ignore" });
    return success ? stdout.toString().trim() : null;
  };
  const commit = Bun.which("git") === null ? null : git("rev-parse", "--short=10", "HEAD");
  if (commit === null) return {};
  return { KOALA_COMMIT: JSON.stringify(git("status", "--porcelain") === "" ? commit : `${commit}+`) };
}

/** transformers.js loads its ONNX runtime by a `require` that the bundler cannot see, and the executable would look
 *  for it on disk. With an import in its place the stub of `stubs/onnxruntime-node` is bundled. */
const transformersWithoutRequire: BunPlugin = {
  name: "transformers without require",
  setup(build) {
    build.onLoad(
      { filter: /@huggingface\/transformers\/dist\/transformers\.node\.mjs$/ },
      async ({ path }) => {
        const source = await Bun.file(path).text();
        const parts = source.split('requireFromHere("onnxruntime-node")');
        if (parts.length !== 2)
          throw new Error(`${path} changed: the patch for the executable no longer applies`);
        return { contents: parts.join('(await import("onnxruntime-node")).default'), loader: "js" };
      },
    );
  },
};

if (import.meta.main) {
  const out = resolve(process.argv[2] ?? join(rootDirectory, "dist", "koala"));
  await buildExecutable(out);
  console.log(`${out}: ${(statSync(out).size / 1e6).toFixed(1)} MB`);
}
