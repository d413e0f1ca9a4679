/** `koala study serve DIR`: the rating page for a study folder, and nothing else, until SIGTERM or Ctrl-C. */
import type { Command } from "commander";
import { createServer } from "../../server/app.ts";
import { ModelRegistry, serverContext } from "../../server/context.ts";
import { listen } from "../../server/listen.ts";
import { openCode } from "../../server/study/codes.ts";
import { loadRatingPages } from "../../server/web/rating/pages.ts";
import { version } from "../../util/version.ts";
import { integer } from "../model_options.ts";
import { addStudyDatabaseFlags, withStudy, type StudyDatabaseFlags } from "./study_database.ts";

interface ServeFlags extends StudyDatabaseFlags {
  host: string;
  port: number;
  allowedHost: string[];
}

export function register(study: Command): void {
  const command = study
    .command("serve <dir>")
    .description("serve the rating page of a study; votes go to the study's database")
    .option("--host <address>", "address to listen on; 0.0.0.0 is every network", "127.0.0.1")
    .option("--port <n>", "port to listen on; 0 takes a free one", integer(0, 65535), 8080)
    .option(
      "--allowed-host <name>",
      "host name that raters may use besides this machine's; may be given several times",
      (value: string, previous: string[]) => [...previous, value],
      [],
    );
  addStudyDatabaseFlags(command).action(serve);
}

async function serve(directory: string, flags: ServeFlags): Promise<void> {
  const { host, port, allowedHost } = flags;
  await withStudy(directory, flags, async (store, study) => {
    const context = serverContext({
      models: new ModelRegistry(),
      version,
      studies: store,
      allowedHosts: allowedHost,
      boundHost: host,
      // Study routes are public by their codes; the rest of the API is behind a key that nobody has.
      requireKey: true,
      pages: Object.fromEntries(await loadRatingPages()),
    });
    const server = listen(createServer(context), { context, host, port, graceMs: 5000, signals: true });
    console.log(`${study.title}: anybody may rate at ${server.url}/study/${openCode(study)}`);
    console.log(
      `koala study invite ${directory} --raters N --url ${server.url} prints a link for each rater.`,
    );
    await server.closed;
  });
}
