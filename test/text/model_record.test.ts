import { expect, test } from "bun:test";
import { join } from "node:path";
import { hashTemplate, hashTokenizer } from "../../src/text/fingerprint.ts";
import { documentsOf } from "../../src/data/example.ts";
import { RecordTokenizer, tokenizeDefaults } from "../../src/data/tokenize.ts";
import { koalaJinja } from "../../src/text/koala_template.ts";
import { servingTemplate, trainedKoala } from "../../src/text/model_record.ts";
import { idsOf } from "../../src/text/segments.ts";
import { namedTemplate } from "../../src/text/template.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";

const folder = temporaryFolder("record");

/** A tiny model that was trained with the Koala format. */
async function trainedModel(name: string, more: object = {}) {
  const directory = join(folder, name);
  await makeTinyModel(directory);
  const tokenizer = await loadTokenizer(directory);
  const template = hashTemplate(await namedTemplate("koala", tokenizer));
  const record = { chatTemplate: "koala", tokenizer: await hashTokenizer(directory), template, ...more };
  await Bun.write(join(directory, "koala.json"), JSON.stringify(record));
  return { directory, tokenizer };
}

test("a model is served with the template it was trained with", async () => {
  const { directory, tokenizer } = await trainedModel("plain");
  expect((await servingTemplate(directory, tokenizer))?.name).toBe("koala");
  expect((await servingTemplate(directory, tokenizer, "koala-negative"))?.name).toBe("koala-negative");
});

test.each(["positive", "negative"] as const)(
  "the %s marker asks with the words of the training",
  async (marker) => {
    const settings = { marker: "Good {{ answer }}:", negativeMarker: "A bad one:", bos: "none" } as const;
    const { directory, tokenizer } = await trainedModel(`words-${marker}`, { koalaFormat: settings });
    const served = (await servingTemplate(directory, tokenizer))!;
    const training = new RecordTokenizer(tokenizer, await namedTemplate("koala", tokenizer), {
      ...tokenizeDefaults,
      ...settings,
    });
    const user = { role: "user", content: "Say a number." } as const;
    const messages = [user, { role: "assistant", content: "One" } as const];
    const [example] = training.tokenize({ kind: "chat", messages, tools: [], marker }).examples;
    const trained = documentsOf(example!)[0]!;
    const prompt = trained.filter(({ source }) => source === "user").flatMap(({ ids }) => ids);
    expect(idsOf(served.render([user], { marker }))).toEqual(prompt);
    if (marker === "positive") expect(idsOf(served.render([user]))).toEqual(prompt);
    expect(served.renderText([user], { marker })).toEndWith(
      marker === "positive" ? " Good {{ answer }}:" : " A bad one:",
    );
  },
);

test("words of a recipe reach the Jinja template that other programs get", async () => {
  const { directory, tokenizer } = await trainedModel("jinja", {
    koalaFormat: { marker: "Good {{ answer }}:" },
  });
  const path = join(directory, "koala.jinja");
  await Bun.write(path, koalaJinja(false, await trainedKoala(directory)));
  const jinja = await namedTemplate(path, tokenizer);
  const user = { role: "user", content: "Hi" } as const;
  const koala = (await servingTemplate(directory, tokenizer))!;
  expect(jinja.renderText([user])).toBe(koala.renderText([user]));
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
