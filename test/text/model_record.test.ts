import { expect, test } from "bun:test";
import { join } from "node:path";
import { hashTemplate, hashTokenizer } from "../../src/text/fingerprint.ts";
import { servingTemplate } from "../../src/text/model_record.ts";
import { namedTemplate } from "../../src/text/template.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";

const folder = temporaryFolder("record");

/** A tiny model that was trained with the Koala format. */
async function trainedModel(name: string) {
  const directory = join(folder, name);
  await makeTinyModel(directory);
  const tokenizer = await loadTokenizer(directory);
  const template = hashTemplate(await namedTemplate("koala", tokenizer));
  const record = { chatTemplate: "koala", tokenizer: await hashTokenizer(directory), template };
  await Bun.write(join(directory, "koala.json"), JSON.stringify(record));
  return { directory, tokenizer };
}

test("a model is served with the template it was trained with", async () => {
  const { directory, tokenizer } = await trainedModel("plain");
  expect((await servingTemplate(directory, tokenizer))?.name).toBe("koala");
  expect((await servingTemplate(directory, tokenizer, "koala-negative"))?.name).toBe("koala-negative");
});

test("another template is refused by name", async () => {
  const { directory, tokenizer } = await trainedModel("template");
  await expect(servingTemplate(directory, tokenizer, "chatml")).rejects.toThrow(
    "trained with the chat template koala, not with chatml",
  );
});

test("another tokenizer is refused by file", async () => {
  const { directory, tokenizer } = await trainedModel("tokenizer");
  const path = join(directory, "tokenizer.json");
  const json = await Bun.file(path).json();
  json.added_tokens = json.added_tokens.slice(0, -1);
  await Bun.write(path, JSON.stringify(json));
  await expect(servingTemplate(directory, tokenizer)).rejects.toThrow(
    "another tokenizer than the tokenizer.json in",
  );
});
