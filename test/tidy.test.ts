/** The rules of ARCHITECTURE.md and STYLE.md that a program can check. */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, extname, join, relative, resolve } from "node:path";
import { treeText } from "./tree.ts";

const root = join(import.meta.dir, "..");

/** Who may import whom, apart from their own folder. "*": everything. ARCHITECTURE.md shows the same table. */
const mayImport: Record<string, string[]> = {
  cli: ["*"],
  server: ["engine", "text", "store", "eval", "util"],
  train: ["model", "tensor", "data", "util"],
  engine: ["model", "tensor", "util"],
  release: ["model", "tensor", "util"],
  eval: ["text", "data", "util"],
  data: ["text", "util"],
  model: ["tensor", "util"],
  tensor: ["util"],
  text: ["util"],
  store: ["util"],
  util: [],
};

const linesMax = 450;

const sources = [...new Bun.Glob("src/**/*.{ts,tsx}").scanSync(root)].sort();
const scripts = [...sources, ...new Bun.Glob("{test,ffi,bench}/**/*.{ts,tsx}").scanSync(root)].sort();
const read = (file: string): string => readFileSync(join(root, file), "utf8");

/** Specifiers of all imports, those of types included, which the transpiler alone would drop. */
function importsIn(text: string, loader: "ts" | "tsx" = "ts"): string[] {
  const values = text.replace(/^(import|export) type\b(?= *[{*]| \w+ from )/gm, "$1");
  return new Bun.Transpiler({ loader }).scanImports(values).map(({ path }) => path);
}

const importsOf = (file: string): string[] => importsIn(read(file), extname(file) === ".tsx" ? "tsx" : "ts");

/** "src/model/llama.ts" -> "model" */
const roomOf = (file: string): string => file.split("/")[1]!;

/** Every violation, so that one run shows all. */
function violations(files: string[], rule: (file: string) => string | null): string[] {
  return files.flatMap((file) => {
    const fault = rule(file);
    return fault === null ? [] : [`${file}: ${fault}`];
  });
}

/** Files that are or will be in the repository; without git, all but what tools make. */
function repositoryFiles(): string[] {
  const git =
    Bun.which("git") === null
      ? null
      : Bun.spawnSync(["git", "ls-files", "--cached", "--others", "--exclude-standard"], { cwd: root });
  if (git?.success)
    return git.stdout
      .toString()
      .split("\n")
      .filter((file) => file !== "" && existsSync(join(root, file)));
  const made = /^(node_modules|build|dist|\.koala|\.git)\/|\.log$/;
  return [...new Bun.Glob("**/*").scanSync({ cwd: root, dot: true })].filter((file) => !made.test(file));
}

describe("imports", () => {
  test("are found at all, those of types too", () => {
    const text = [
      'import { type A, b } from "./a.ts";',
      'import type { C } from "./c.ts";',
      'import type D from "./d.ts";',
      'export type { E } from "./e.ts";',
      'const f = await import("./f.ts");',
      "export type G = A | C | D;",
    ].join("\n");
    expect(importsIn(text).sort()).toEqual(["./a.ts", "./c.ts", "./d.ts", "./e.ts", "./f.ts"]);
  });

  test("follow the table", () => {
    const rule = (file: string) => {
      const allowed = mayImport[roomOf(file)];
      if (allowed === undefined) return "lies in a folder that the table does not know";
      const rooms = importsOf(file)
        .filter((path) => path.startsWith("."))
        .map((path) => relative(root, resolve(root, dirname(file), path)))
        .filter((path) => path.startsWith("src/"))
        .map(roomOf);
      const wrong = rooms.filter(
        (room) => room !== roomOf(file) && !allowed.includes(room) && !allowed.includes("*"),
      );
      return wrong.length === 0 ? null : `imports from ${[...new Set(wrong)].join(", ")}`;
    };
    expect(violations(sources, rule)).toEqual([]);
  });

  test.skipIf(!existsSync(join(root, "ARCHITECTURE.md")))(
    "have the table that ARCHITECTURE.md shows (skipped until there is one)",
    () => {
      const block = /## Who may import whom\n+```\n([\s\S]*?)```/
        .exec(read("ARCHITECTURE.md"))![1]!
        .replace(/ \([^)]*\)/g, "");
      const shown = Object.fromEntries(
        block
          .split(/\n| {2,}/)
          .filter(Boolean)
          .map((rule) => {
            const [from, to] = rule.split(" -> ");
            return [from!, to === "everything" ? ["*"] : to!.split(", ")];
          }),
      ) as Record<string, string[]>;
      const { everyone, ...rooms } = shown;
      expect(everyone).toEqual(["util"]);
      const table = Object.entries(mayImport).map(
        ([room, allowed]) => [room, allowed.filter((name) => name !== "util").sort()] as const,
      );
      expect(Object.fromEntries(table.filter(([, allowed]) => allowed.length > 0))).toEqual(
        Object.fromEntries(Object.entries(rooms).map(([room, allowed]) => [room, allowed.sort()])),
      );
    },
  );

  test("name files that are there, with their ending", () => {
    const rule = (file: string) => {
      const missing = importsOf(file).filter(
        (path) => path.startsWith(".") && !existsSync(resolve(root, dirname(file), path)),
      );
      return missing.length === 0 ? null : `imports ${missing.join(", ")}`;
    };
    expect(violations(sources, rule)).toEqual([]);
  });

  test("of bun:ffi stand in src/tensor only", () => {
    const outside = sources.filter((file) => roomOf(file) !== "tensor");
    expect(
      violations(outside, (file) => (importsOf(file).includes("bun:ffi") ? "imports bun:ffi" : null)),
    ).toEqual([]);
    expect(sources.some((file) => importsOf(file).includes("bun:ffi"))).toBe(true);
  });
});

describe("files", () => {
  test("start with a sentence that says what they are", () => {
    const rule = (file: string) =>
      /^(#!.*\n)?\/\*\* ?\S/.test(read(file)) ? null : "does not start with a doc comment";
    expect(violations(sources, rule)).toEqual([]);
  });

  test(`have at most ${linesMax} lines`, () => {
    const rule = (file: string) => {
      const lines = read(file).split("\n").length - 1;
      return lines <= linesMax ? null : `has ${lines} lines`;
    };
    expect(violations(scripts, rule)).toEqual([]);
  });

  test("are never called index", () => {
    expect(scripts.filter((file) => /(^|\/)index\.tsx?$/.test(file))).toEqual([]);
  });

  test("name no path of a machine", () => {
    // Put together here, so that this file does not hold what it looks for.
    const machinePath = new RegExp(`(?<![\\w.$}-])/(${["work", "root", "tmp", "home"].join("|")})/`);
    const rule = (file: string) => {
      const bytes = readFileSync(join(root, file));
      if (bytes.includes(0)) return null; // no text
      const line = bytes
        .toString()
        .split("\n")
        .find((text) => machinePath.test(text));
      return line === undefined ? null : line.trim().slice(0, 120);
    };
    expect(machinePath.test(`"${"/tm"}p/x"`)).toBe(true);
    expect(violations(repositoryFiles(), rule)).toEqual([]);
  });
});

describe.skipIf(!existsSync(join(root, "README.md")))("the README (skipped until there is one)", () => {
  test("has every top-level entry in its tree", () => {
    const readme = read("README.md");
    const entries = [...new Set(repositoryFiles().map((file) => file.split("/")[0]!))];
    expect(entries.length).toBeGreaterThan(5);
    // Dot files belong to tools, but for the folder that CI runs.
    const shown = entries.filter((entry) => !entry.startsWith(".") || entry === ".ci");
    expect(
      shown.filter((entry) => !new RegExp(`(^|[\\s\`|])${entry.replace(".", "\\.")}\\b`, "m").test(readme)),
    ).toEqual([]);
  });

  test("has beside it a line for every file, as ./koala format writes them", () => {
    expect(read("TREE.md")).toBe(treeText());
  });

  test("has every folder of src in its tree", () => {
    const readme = read("README.md");
    const folders = readdirSync(join(root, "src")).filter((folder) =>
      sources.some((file) => roomOf(file) === folder),
    );
    expect(folders.filter((folder) => !new RegExp(`\\b${folder}/`).test(readme))).toEqual([]);
  });
});
