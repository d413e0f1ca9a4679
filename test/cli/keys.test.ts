import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { type RunningServer, startKoala } from "../support/koala_process.ts";
import { hasStories, stories, withoutShared } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";

const program = join(import.meta.dir, "..", "..", "src", "cli", "main.ts");
const folder = temporaryFolder("keys");
const database = join(folder, "koala.db");

async function koala(args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, program, ...args], {
    env: { ...process.env, KOALA_DATABASE: "", XDG_DATA_HOME: "", ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, out, errors] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, out, errors };
}

const keys = (...args: string[]) => koala(["keys", ...args, "--database", database]);

describe("koala keys", () => {
  test("prints a new key alone on stdout, lists it without the secret, and revokes it", async () => {
    const made = await keys("create", "laptop");
    expect([made.code, made.out]).toEqual([0, expect.stringMatching(/^sk-koala-[0-9A-Za-z]{32}\n$/)]);
    const secret = made.out.trim();
    expect(made.errors).not.toContain(secret);
    await keys("create", "考拉");
    const listed = await keys("list");
    const lines = listed.out.trimEnd().split("\n");
    expect(lines).toHaveLength(3);
    expect(lines[0]).toMatch(/^NAME +KEY +ID +CREATED +LAST USED +STATE$/);
    expect(lines[1]).toMatch(
      /^laptop +sk-koala-[0-9A-Za-z]{6}… +key_\w{16} +\d{4}-\d\d-\d\d \d\d:\d\d UTC +never +valid$/,
    );
    expect(listed.out).toContain(secret.slice(0, 15));
    expect(listed.out).not.toContain(secret.slice(0, 16));
    // Columns line up in a terminal, where a Chinese character takes two cells.
    const columns = lines.map((line) => Bun.stringWidth(line.slice(0, line.search(/KEY|sk-koala/))));
    expect(new Set(columns).size).toBe(1);
    expect(await keys("revoke", "laptop")).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^laptop \(key_\w{16}\) is revoked\./),
    });
    const rows = JSON.parse((await keys("list", "--json")).out) as {
      name: string;
      revokedAt: string | null;
    }[];
    expect(rows.map(({ name, revokedAt }) => [name, revokedAt !== null])).toEqual([
      ["laptop", true],
      ["考拉", false],
    ]);
    expect(Object.keys(rows[0]!)).not.toContain("sha256");
  });

  test("ends with 1 and one sentence where a name is taken, unknown or missing", async () => {
    expect(await keys("create", "laptop")).toMatchObject({
      code: 1,
      out: "",
      errors: expect.stringMatching(/^koala: There is a key named "laptop" already.*\n$/),
    });
    expect(await keys("revoke", "desktop")).toMatchObject({
      code: 1,
      out: "",
      errors: expect.stringMatching(/^koala: There is no key named "desktop".*\n$/),
    });
    expect(await keys("create")).toMatchObject({
      code: 1,
      out: "",
      errors: expect.stringMatching(/missing required argument 'name'/i),
    });
  });

  test("uses $KOALA_DATABASE, else the user's data folder", async () => {
    const data = join(folder, "data");
    const home = join(folder, "home");
    await koala(["keys", "list"], { KOALA_DATABASE: join(folder, "named.db"), XDG_DATA_HOME: data });
    expect(readdirSync(folder)).toContain("named.db");
    expect(readdirSync(folder)).not.toContain("data");
    await koala(["keys", "list"], { XDG_DATA_HOME: data });
    expect(readdirSync(join(data, "koala"))).toEqual(["koala.db"]);
    await koala(["keys", "list"], { HOME: home });
    expect(readdirSync(join(home, ".local", "share", "koala"))).toEqual(["koala.db"]);
  });

  test("has help for each of its verbs", async () => {
    expect((await koala(["--help"])).out).toContain("keys");
    for (const verb of ["create", "list", "revoke"]) {
      const { code, out } = await koala(["keys", verb, "--help"]);
      expect([code, out.includes("--database <url>")]).toEqual([0, true]);
    }
  });

  test("go with serve: it refuses --database without --keys, --data-dir, --arena or --reports", async () => {
    const model = ["serve", "--model", folder, "--database", program];
    expect(await koala(model)).toMatchObject({
      code: 1,
      errors: expect.stringMatching(/goes with --keys, --data-dir, --arena or --reports\.\n$/),
    });
  });
});

describe.skipIf(!hasStories)(`koala serve --keys (${hasStories ? "stories260K" : withoutShared})`, () => {
  let server: RunningServer;
  const status = async (secret: string) =>
    (
      await fetch(`${server.url}/v1/models`, {
        headers: secret === "" ? {} : { authorization: `Bearer ${secret}` },
      })
    ).status;

  /** Seconds until the server answers with `wanted`. */
  async function secondsUntil(secret: string, wanted: number): Promise<number> {
    const start = performance.now();
    while ((await status(secret)) !== wanted && performance.now() - start < 10_000) await Bun.sleep(50);
    return (performance.now() - start) / 1000;
  }

  beforeAll(async () => {
    server = await startKoala([
      "--model",
      stories,
      "--threads",
      "1",
      "--keys",
      "--database",
      join(folder, "serve.db"),
      "--api-key",
      "given",
    ]);
  });
  afterAll(async () => {
    await server?.stop();
  });

  test("takes keys made and refuses keys revoked while it runs, beside those of --api-key, and logs none", async () => {
    const serving = (...args: string[]) => koala(["keys", ...args, "--database", join(folder, "serve.db")]);
    const secret = (await serving("create", "one")).out.trim();
    expect(await secondsUntil(secret, 200)).toBeLessThan(5);
    expect([await status(""), await status("given"), await status(`${secret}0`)]).toEqual([401, 200, 401]);
    await serving("revoke", "one");
    expect(await secondsUntil(secret, 401)).toBeLessThan(5);
    expect(await status("given")).toBe(200);
    const rows = JSON.parse((await serving("list", "--json")).out) as { lastUsedAt: string | null }[];
    expect(rows[0]!.lastUsedAt).not.toBeNull();
    expect(await server.stop()).toBe(0);
    expect(server.stderr()).not.toContain(secret.slice(9));
    expect(await new Response(server.process.stdout).text()).toContain("key required");
  }, 30_000);
});
