/** API keys: kept as SHA-256, compared in constant time, each request checked against all of them.
 *  Denied by default: a route is public only where its declaration says so. */

import { createHash, timingSafeEqual } from "node:crypto";
import { RequestError } from "../util/errors.ts";

export interface ApiKey {
  /** Names the key in logs and separates prefix caches; never secret. */
  id: string;
  sha256: Uint8Array;
}

/** Which keys open the server. */
export interface KeyAccess {
  /** Replaced as a whole when the keys change. Empty: the server is open, unless `requireKey`. */
  apiKeys: readonly ApiKey[];
  /** true: where no key is left, nobody is let in rather than everybody. */
  requireKey: boolean;
  /** Called with the id of the key of each request. */
  keyUsed: (id: string) => void;
}

/** The key's id; null in open mode. Throws 401 where keys are set and none fits. */
export function authenticate(headers: Headers, access: KeyAccess): string | null {
  const { apiKeys: keys, requireKey } = access;
  if (keys.length === 0 && !requireKey) return null;
  const given = presentedKey(headers);
  const digest = hash(given);
  let found: string | null = null;
  // No early exit: the time tells neither which key fits nor whether one does.
  for (const key of keys) if (timingSafeEqual(digest, key.sha256)) found = key.id;
  if (found !== null && given !== "") {
    access.keyUsed(found);
    return found;
  }
  throw new RequestError(
    given === ""
      ? "This server needs an API key. Send it as `Authorization: Bearer KEY`."
      : "The API key is not known to this server.",
    { status: 401, type: "authentication_error", code: "invalid_api_key" },
  );
}

export function apiKey(secret: string, id = `key-${hash(secret).toString("hex").slice(0, 8)}`): ApiKey {
  return { id, sha256: hash(secret) };
}

function presentedKey(headers: Headers): string {
  const bearer = /^bearer(?:\s+(.*))?$/i.exec(headers.get("authorization") ?? "");
  return (bearer?.[1] ?? headers.get("x-api-key") ?? "").trim();
}

const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
