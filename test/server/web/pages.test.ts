/** The served page: headers, no foreign asset, size; and the same thing from a compiled binary in an empty directory. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadPages, type Page } from "../../../src/server/web/pages.ts";

const pages = await loadPages();
const text = (page: Page) =>
  typeof page.body === "string" ? page.body : new TextDecoder().decode(page.body);
const document = pages.get("/")!;
const assets = [...pages].filter(([path]) => path !== "/");

describe("the pages", () => {
  test("every path that the document names is served, and nothing else", () => {
    const named = [...text(document).matchAll(/(?:src|href)="([^"]+)"/g)].map(
      (match) => new URL(match[1]!, "http://koala/").pathname,
    );
    expect(named.toSorted()).toEqual(assets.map(([path]) => path).toSorted());
    expect(named.map((path) => path.split(".").at(-1)).toSorted()).toEqual(["css", "js", "svg"]);
  });

  test("the document is revalidated, assets carry a hash and are kept for a year", () => {
    expect(document.headers["cache-control"]).toBe("no-cache");
    expect(document.headers["content-type"]).toStartWith("text/html");
    for (const [path, page] of assets) {
      expect(path).toMatch(/-[a-z0-9]{8}\.(js|css|svg)$/);
      expect(page.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
    }
    for (const page of pages.values()) expect(page.headers["etag"]).toMatch(/^"[a-z0-9]+"$/);
    expect(new Set([...pages.values()].map((page) => page.headers["etag"])).size).toBe(pages.size);
  });

  test("the policy allows this server's own files and nothing inline", () => {
    const policy = document.headers["content-security-policy"]!;
    const sources = Object.fromEntries(
      policy.split("; ").map((part) => [part.split(" ")[0], part.split(" ").slice(1).join(" ")]),
    );
    expect(sources).toMatchObject({
      "default-src": "'none'",
      "script-src": "'self'",
      "style-src": "'self'",
      "connect-src": "'self'",
      "frame-ancestors": "'none'",
      "base-uri": "'none'",
      "form-action": "'none'",
    });
    expect(policy).not.toMatch(/unsafe|\*|https?:|data:|blob:/);
  });

  test("the document has no inline script, style or handler", () => {
    const html = text(document);
    expect(html).not.toMatch(/<script(?![^>]*\ssrc=)/);
    expect(html).not.toMatch(/<style|\sstyle=|\son[a-z]+=|javascript:/i);
  });

  test("no asset names another host, but in XML namespaces, licence comments and an error's text", () => {
    const harmless = [
      "http://www.w3.org/",
      "@license DOMPurify",
      "license (MIT):",
      "license (MIT):",
      "Please report this to https://github.com/markedjs/marked",
    ];
    for (const [path, page] of pages) {
      const named = [
        ...text(page).matchAll(/.{0,120}(?:https?:)?\/\/[a-z0-9-]+(?:\.[a-z0-9-]+)+\/\S{0,30}/gi),
      ].map(([match]) => match);
      const others = named.filter((place) => !harmless.some((known) => place.includes(known)));
      expect({ path, others }).toEqual({ path, others: [] });
    }
  });

  test("all of it is below 64 kB compressed", () => {
    const bytes = [...pages.values()].map(
      (page) => Bun.gzipSync(new TextEncoder().encode(text(page))).length,
    );
    expect(bytes.reduce((sum, size) => sum + size)).toBeLessThan(64_000);
  });
});

describe("a compiled binary", () => {
  const folder = mkdtempSync(join(tmpdir(), "koala-pages-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("serves the same assets from an empty directory", async () => {
    const main = join(folder, "main.ts");
    const source = new URL("../../../src/server/web/pages.ts", import.meta.url).pathname;
    await Bun.write(
      main,
      `import { loadPages } from ${JSON.stringify(source)};
       const pages = await loadPages();
       console.log(JSON.stringify([...pages].map(([path, { body, headers }]) => [path, Buffer.from(body).toString("base64"), headers])));`,
    );
    const build = ["build", "--compile", "--production", main, "--outfile", join(folder, "program")];
    const built = Bun.spawnSync([process.execPath, ...build], {
      stdout: "ignore",
      stderr: "pipe",
      cwd: folder,
    });
    expect({ exit: built.exitCode, stderr: built.exitCode === 0 ? "" : built.stderr.toString() }).toEqual({
      exit: 0,
      stderr: "",
    });
    const elsewhere = mkdtempSync(join(folder, "empty-"));
    const ran = Bun.spawnSync([join(folder, "program")], { cwd: elsewhere, env: {} });
    const served = JSON.parse(ran.stdout.toString()) as [string, string, Record<string, string>][];

    const kind = (path: string) => path.split(".").at(-1);
    expect(served.map(([path]) => kind(path)).toSorted()).toEqual([...pages.keys()].map(kind).toSorted());
    const html = Buffer.from(served.find(([path]) => path === "/")![1], "base64").toString();
    for (const [path, , headers] of served) {
      if (path !== "/") expect(html).toContain(path);
      const twin = [...pages].find(([other]) => kind(other) === kind(path))![1];
      expect({ ...headers, etag: "" }).toEqual({ ...twin.headers, etag: "" });
    }
    const scriptOf = (list: [string, string][]) => list.find(([path]) => path.endsWith(".js"))![1];
    const mine = Buffer.from(scriptOf([...pages].map(([path, page]) => [path, text(page)]))).toString(
      "base64",
    );
    expect(scriptOf(served.map(([path, body]) => [path, body]))).toBe(mine);
  });
});
