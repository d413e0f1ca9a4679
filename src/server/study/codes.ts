/** Invite and completion codes: derived from the study's secret, so that they can be printed again although the database
 *  keeps their hashes alone. */
import { createHmac } from "node:crypto";
import { randomText } from "../../store/ids.ts";
import { codeHash } from "../../store/study_raters.ts";

interface Secret {
  secret: string;
}

export const newSecret = (): string => randomText(40);

/** The link that anybody may open; each visitor becomes a rater of their own. */
export const openCode = (study: Secret): string => derived(study, "open");

/** Of the rater with this number, from 1. */
export const inviteCode = (study: Secret, number: number): string => derived(study, `invite ${number}`);

/** Of a worker of a crowd platform: who comes again is the same rater. */
export const workerCode = (study: Secret, platform: string, worker: string): string =>
  derived(study, `worker ${platform} ${worker}`);

/** Of somebody who came by the open link; the page's address holds it from then on. */
export const newRaterCode = (): string => randomText(20);

/** What a rater gives the platform at the end. */
export const completionCode = (study: Secret, raterId: string): string =>
  derived(study, `completion ${raterId}`).slice(0, 10).toUpperCase();

export const openHashOf = (secret: string): string => codeHash(openCode({ secret }));

/** 20 characters of base 36: 100 bits. */
function derived({ secret }: Secret, what: string): string {
  const digest = createHmac("sha256", secret).update(what).digest("hex");
  return BigInt(`0x${digest}`).toString(36).slice(0, 20);
}
