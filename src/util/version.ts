/** Which Koala this is: the version of package.json, and the commit that `./koala build` stamped in. */
import { version as packageVersion } from "../../package.json";

declare const KOALA_COMMIT: string | undefined;

/** Null when running from source. */
export const commit = typeof KOALA_COMMIT === "undefined" ? null : KOALA_COMMIT;

/** "0.1.0", or "0.1.0 (1a2b3c4)" in an executable. */
export const version = commit === null ? packageVersion : `${packageVersion} (${commit})`;
