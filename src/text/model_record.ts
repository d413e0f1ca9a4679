/** What koala.json says of a model that was trained here: the template and the tokenizer that its weights belong to.
 *  Serving checks them, because a model behind another template answers badly and nobody sees why. */
import { basename, join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { hashTemplate, hashTokenizer } from "./fingerprint.ts";
import type { KoalaOptions } from "./koala_template.ts";
import { type ChatTemplate, loadTemplate, namedTemplate } from "./template.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { isObject, type Json, type JsonObject, readJsonObject } from "./tokenizer_file.ts";

export const recordFile = "koala.json";

/** The template to serve `directory` with: the one named, else the one it was trained with, else its own; null where it has none.
 *  Throws UsageError where tokenizer or template are not those of the training. */
export async function servingTemplate(
  directory: string,
  tokenizer: Tokenizer,
  named?: string,
): Promise<ChatTemplate | null> {
  const record = await readJsonObject(join(directory, recordFile));
  const trained = recordedTemplate(record);
  const name = named ?? trained;
  const template =
    name === undefined
      ? await loadTemplate(directory, tokenizer)
      : await namedTemplate(name, tokenizer, koalaOf(record?.koalaFormat));
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

/** The built-in template that the model in `directory` was trained with; undefined where it brings its own or was not trained here. */
export async function trainedTemplate(directory: string): Promise<string | undefined> {
  return recordedTemplate(await readJsonObject(join(directory, recordFile)));
}

/** How the model in `directory` was trained to read Koala's format: its words for the two markers, and BOS. */
export async function trainedKoala(directory: string): Promise<KoalaOptions> {
  return koalaOf((await readJsonObject(join(directory, recordFile)))?.koalaFormat);
}

/** Data settings of a training as the template's options: marker and negativeMarker (negative_marker in a recipe), and BOS. */
export function koalaOf(settings: Json | undefined): KoalaOptions {
  if (settings === undefined || !isObject(settings)) return {};
  const words = (value: Json | undefined): string | null =>
    typeof value === "string" && value !== "positive" && value !== "negative" ? value : null;
  const positive = words(settings.marker);
  const negative = words(settings.negativeMarker ?? settings.negative_marker);
  const wording = { ...(positive === null ? {} : { positive }), ...(negative === null ? {} : { negative }) };
  return { wording, ...(settings.bos === "none" ? { bos: "none" } : {}) };
}

/** A Jinja file was copied beside the weights and is found there. */
function recordedTemplate(record: JsonObject | null): string | undefined {
  const name = record?.chatTemplate;
  return typeof name === "string" && !name.endsWith(".jinja") ? name : undefined;
}

/** The Koala format's two markers are one training. */
const isOtherMarker = (trained: string | undefined, template: ChatTemplate | null): boolean =>
  trained === "koala" && template?.name === "koala-negative";
