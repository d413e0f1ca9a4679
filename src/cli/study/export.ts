/** `koala study export DIR --as FORMAT`: the votes that count, for training and for other programs. */
import { writeFile } from "node:fs/promises";
import { type Command, Option } from "commander";
import { formatVotes, voteFormats, type VoteFormat } from "../../eval/vote_formats.ts";
import { exportShownVotes } from "../../server/study/export_votes.ts";
import { addStudyDatabaseFlags, withStudy, type StudyDatabaseFlags } from "./study_database.ts";

interface ExportFlags extends StudyDatabaseFlags {
  as: VoteFormat;
  out?: string;
}

export function register(study: Command): void {
  const command = study
    .command("export <dir>")
    .description("write a study's votes: as they are, or as preference pairs that koala train takes")
    .addOption(
      new Option("--as <format>", "votes, pairs, arena (LMSYS) or label-studio")
        .choices([...voteFormats])
        .default("votes"),
    )
    .option("--out <file>", "file to write (default: stdout)");
  addStudyDatabaseFlags(command).action(run);
}

async function run(directory: string, flags: ExportFlags): Promise<void> {
  const text = await withStudy(directory, flags, async (store, study) =>
    formatVotes(await exportShownVotes(store, study.id), flags.as),
  );
  if (flags.out === undefined) process.stdout.write(text);
  else await writeFile(flags.out, text);
}
