/** Hashes of what decides a token: files, tokenizer and chat template. They travel with data sets and checkpoints, so that
 *  a model is served with what it was trained with. */
import { createReadStream } from "node:fs";
import { join } from "node:path";
import type { ChatTemplate } from "./template.ts";
import { readJsonObject, type Json } from "./tokenizer_file.ts";
import { UsageError } from "../util/errors.ts";

export async function hashFile(path: string): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 }))
      hasher.update(chunk as Buffer);
  } catch (error) {
    throw new UsageError(`${path} cannot be read: ${(error as Error).message}.`);
  }
  return hasher.digest("hex");
}

/** What turns text into ids, whatever else the files say (names, limits, cleaning). */
export async function hashTokenizer(directory: string): Promise<string> {
  const json = (await readJsonObject(join(directory, "tokenizer.json"))) ?? {};
  const { added_tokens, normalizer, pre_tokenizer, post_processor, model } = json;
  const config = (await readJsonObject(join(directory, "tokenizer_config.json"))) ?? {};
  const { bos_token, eos_token } = config;
  return hashJson([added_tokens, normalizer, pre_tokenizer, post_processor, model, bos_token, eos_token]);
}

/** The Jinja source; for the Koala format its name, since it has none. */
export const hashTemplate = (template: ChatTemplate | null): string =>
  hashJson(template === null ? null : (template.source ?? ["built in", template.name]));

/** Keys in order, so that equal values have equal hashes. */
export const hashJson = (value: Json | undefined | (Json | undefined)[]): string =>
  new Bun.CryptoHasher("sha256").update(canonical(value as Json)).digest("hex");

function canonical(value: Json | undefined): string {
  if (value === undefined) return "null";
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(",")}}`;
}
