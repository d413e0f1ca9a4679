/** What koala.json says of a model that was trained here: the template and the tokenizer that its weights belong to.
 *  Serving checks them, because a model behind another template answers badly and nobody sees why. */
import { basename, join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { hashTemplate, hashTokenizer } from "./fingerprint.ts";
import { type ChatTemplate, loadTemplate, namedTemplate } from "./template.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { readJsonObject } from "./tokenizer_file.ts";

const recordFile = "koala.json";

/** The template to serve `directory` with: the one named, else the one it was trained with, else its own; null where it has none.
 *  Throws UsageError where tokenizer or template are not those of the training. */
export async function servingTemplate(
  directory: string,
  tokenizer: Tokenizer,
  named?: string,
): Promise<ChatTemplate | null> {
  const record = await readJsonObject(join(directory, recordFile));
  const trained = typeof record?.chatTemplate === "string" ? record.chatTemplate : null;
  const builtin = trained !== null && !trained.endsWith(".jinja") ? trained : undefined;
  const name = named ?? builtin;
  const template =
    name === undefined ? await loadTemplate(directory, tokenizer) : await namedTemplate(name, tokenizer);
  if (!record) return template;
  const told = `${basename(directory)} was trained with`;
  if (typeof record.tokenizer === "string" && record.tokenizer !== (await hashTokenizer(directory)))
    throw new UsageError(
      `${told} another tokenizer than the tokenizer.json in ${directory}. Put the original back, or delete ${recordFile} to serve it all the same.`,
    );
  if (
    typeof record.template === "string" &&
    record.template !== hashTemplate(template) &&
    !isOtherMarker(trained, template)
  )
    throw new UsageError(
      `${told} ${trained ? `the chat template ${trained}` : "its own chat template"}, not with ${template?.name ?? "none"}. Leave --chat-template out, or delete ${recordFile} in ${directory} to serve it all the same.`,
    );
  return template;
}

/** The Koala format's two markers are one training. */
const isOtherMarker = (trained: string | null, template: ChatTemplate | null): boolean =>
  trained === "koala" && template?.name === "koala-negative";
