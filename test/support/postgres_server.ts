/** A PostgreSQL server in a temporary folder, where Debian's postgresql package is installed. */
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const installed = "/usr/lib/postgresql";

/** The newest version's programs, or null. */
function binaries(): string | null {
  const versions = existsSync(installed) ? readdirSync(installed).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = versions.map((version) => join(installed, version, "bin"));
  return folders.find((folder) => existsSync(join(folder, "initdb"))) ?? null;
}

export const hasPostgres = binaries() !== null;
export const withoutPostgres = "needs a PostgreSQL server, which is not installed here";

export interface PostgresServer {
  /** Makes an empty database and gives its address. */
  newDatabase(): Promise<string>;
  stop(): Promise<void>;
}

export async function startPostgres(): Promise<PostgresServer> {
  const folder = mkdtempSync(join(tmpdir(), "koala-postgres-"));
  const as = otherUser(folder);
  const data = join(folder, "data");
  const run = (program: string, ...args: string[]) => [...as, join(binaries()!, program), ...args];
  const made = Bun.spawnSync(
    run("initdb", "-D", data, "-A", "trust", "-U", "koala", "--no-sync", "--locale=C", "-E", "UTF8"),
  );
  if (!made.success) throw new Error(`initdb failed: ${made.stderr}`);
  const port = freePort();
  const options = { listen_addresses: "127.0.0.1", unix_socket_directories: folder, fsync: "off" };
  const settings = Object.entries(options).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const server = Bun.spawn(run("postgres", "-D", data, "-p", String(port), ...settings), {
    stdout: "ignore",
    stderr: "ignore",
  });
  const address = (database: string) => `postgres://koala@127.0.0.1:${port}/${database}`;
  const stop = async () => {
    server.kill("SIGQUIT"); // at once, without a checkpoint
    await server.exited;
    rmSync(folder, { recursive: true, force: true });
  };
  const control = await connected(address("postgres"), stop);
  let databases = 0;
  return {
    newDatabase: async () => {
      const name = `test${databases++}`;
      await control.unsafe(`create database ${name}`);
      return address(name);
    },
    stop: async () => {
      await control.close();
      await stop();
    },
  };
}

/** PostgreSQL refuses to run as root: the command line that runs what follows as somebody else. */
function otherUser(folder: string): string[] {
  if (process.getuid?.() !== 0) return [];
  const id = (flag: string) =>
    ["postgres", "nobody"]
      .map((name) => Bun.spawnSync(["id", flag, name]))
      .find(({ success }) => success)!
      .stdout.toString()
      .trim();
  const [user, group] = [id("-u"), id("-g")];
  chownSync(folder, Number(user), Number(group));
  return ["setpriv", `--reuid=${user}`, `--regid=${group}`, "--clear-groups"];
}

async function connected(address: string, stop: () => Promise<void>): Promise<Bun.SQL> {
  for (let i = 0; ; i++) {
    const client = new Bun.SQL({ url: address, max: 1 });
    try {
      await client.unsafe("select 1");
      return client;
    } catch (error) {
      await client.close();
      if (i < 200) await Bun.sleep(25);
      else {
        await stop();
        throw error;
      }
    }
  }
}

function freePort(): number {
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = probe;
  probe.stop(true);
  return port;
}
