/** Names of rows as OpenAI's API shows them: a kind, and 24 random characters. */
import { randomBytes } from "node:crypto";

/** newId("file-") -> "file-3fJk…" */
export const newId = (kind: string): string => kind + randomText(24);

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

export function randomText(length: number): string {
  let text = "";
  while (text.length < length)
    // 248 is the last multiple of 62 in a byte: without the limit, eight characters would come more often.
    for (const byte of randomBytes(length))
      if (byte < 248 && text.length < length) text += letters[byte % 62];
  return text;
}
