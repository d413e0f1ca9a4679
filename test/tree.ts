/** TREE.md: every source file with the sentence that it begins with. `./koala format` writes it, and tidy.test.ts compares. */
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, extname, join } from "node:path";

const root = join(import.meta.dir, "..");
const folders = ["src", "ffi", "bench", "test"];
const sources = new Set([".ts", ".tsx", ".cc", ".h", ".cu", ".cuh", ".css", ".py", ".sh"]);
const widthMax = 140;

export function treeText(): string {
  const lines = folders.flatMap((folder) => linesOf(folder, 0));
  const intro =
    "Every source file with its first sentence. Written by `./koala format`; the README has the folders.";
  return `# The tree, one line a file\n\n${intro}\n\n\`\`\`\n${lines.join("\n")}\n\`\`\`\n`;
}

function linesOf(folder: string, depth: number): string[] {
  const indent = "  ".repeat(depth);
  const names = readdirSync(join(root, folder)).sort();
  const isFolder = (name: string): boolean => statSync(join(root, folder, name)).isDirectory();
  const files = names.filter((name) => !isFolder(name) && sources.has(extname(name)));
  const inner = names.filter(isFolder).flatMap((name) => linesOf(join(folder, name), depth + 1));
  if (files.length + inner.length === 0) return [];
  const width = Math.max(...files.map((name) => name.length), 0) + 2;
  const own = files.map((name) =>
    shortened(`${indent}  ${name.padEnd(width)}${sentence(join(folder, name))}`.trimEnd()),
  );
  return [`${indent}${basename(folder)}/`, ...own, ...inner];
}

const shortened = (line: string): string =>
  line.length <= widthMax ? line : `${line.slice(0, line.lastIndexOf(" ", widthMax - 2))} …`;

/** The first sentence of the comment that a file begins with. */
function sentence(file: string): string {
  const text = readFileSync(join(root, file), "utf8").replace(/^#!.*\n/, "");
  const comment = /^\s*(?:\/\*\*?([\s\S]*?)\*\/|((?:(?:\/\/|#).*\n)+)|"""([\s\S]*?)""")/.exec(text);
  const words = (comment?.[1] ?? comment?.[2] ?? comment?.[3] ?? "")
    .split("\n")
    .map((line) => line.replace(/^\s*(\*|\/\/|#)? ?/, ""))
    .join(" ")
    .replace(/\s+/g, " ")
    .trim();
  return (/^.*?\.(?= |$)/.exec(words)?.[0] ?? words).replace(/[.:]$/, "");
}

if (import.meta.main) writeFileSync(join(root, "TREE.md"), treeText());
