/** `koala study invite DIR`: links for raters, one each, or one that anybody may open. */
import type { Command } from "commander";
import { inviteCode, openCode } from "../../server/study/codes.ts";
import { addRater, codeHash } from "../../store/study_raters.ts";
import { integer } from "../model_options.ts";
import { addStudyDatabaseFlags, withStudy, type StudyDatabaseFlags } from "./study_database.ts";

interface InviteFlags extends StudyDatabaseFlags {
  raters?: number;
  open: boolean;
  url: string;
}

export function register(study: Command): void {
  const command = study
    .command("invite <dir>")
    .description("print invite links of a study; the same numbers give the same links again")
    .option("--raters <n>", "one link each for raters 1 to n", integer(1, 100_000))
    .option("--open", "one link for everybody, for Mechanical Turk and Prolific too", false)
    .option("--url <address>", "where raters reach koala study serve", "http://127.0.0.1:8080");
  addStudyDatabaseFlags(command).action(invite);
}

async function invite(directory: string, flags: InviteFlags): Promise<void> {
  await withStudy(directory, flags, async (store, study) => {
    const link = (code: string): string => `${flags.url.replace(/\/+$/, "")}/study/${code}`;
    if (flags.open || flags.raters === undefined) console.log(link(openCode(study)));
    for (let number = 1; number <= (flags.raters ?? 0); number++) {
      const code = inviteCode(study, number);
      const rater = { studyId: study.id, inviteHash: codeHash(code), platform: "invite", submit: null };
      await addRater(store, rater);
      console.log(link(code));
    }
  });
}
