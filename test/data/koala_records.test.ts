/** The original's records, and each of its warts: on, off, and what the difference is. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { checkCurationRecipe } from "../../src/data/curation_recipe.ts";
import type { Dialogue } from "../../src/data/dialogue.ts";
import { documentsOf } from "../../src/data/example.ts";
import { buildFilters } from "../../src/data/filters/registry.ts";
import { fieldsFormat } from "../../src/data/formats/fields.ts";
import { koalaRecords, type RecordWarts } from "../../src/data/koala_records.ts";
import { prepareDataset } from "../../src/data/prepare.ts";
import { openDataset } from "../../src/data/shard.ts";
import { hhSource } from "../../src/data/sources/hh.ts";
import { sourceNamed } from "../../src/data/sources/registry.ts";
import { readDialogues } from "../../src/data/sources/read.ts";
import { RecordTokenizer, tokenizeDefaults, type TokenizeOptions } from "../../src/data/tokenize.ts";
import { trainingSettings, wartNames, wartsOf } from "../../src/data/warts.ts";
import type { Segment } from "../../src/text/segments.ts";
import { builtinTemplate } from "../../src/text/template.ts";
import type { JsonObject } from "../../src/text/tokenizer_file.ts";
import { rowFactors } from "../../src/train/loss.ts";
import { sharedDirectory, withoutShared } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { llama, llamaFolder } from "./models.ts";

const none: RecordWarts = wartsOf("none");
const tokenizing = (options: Partial<TokenizeOptions> = {}) =>
  new RecordTokenizer(llama, builtinTemplate("koala", llama)!, { ...tokenizeDefaults, ...options });

const flat = (segments: readonly Segment[]): { ids: number[]; losses: number[] } => ({
  ids: segments.flatMap(({ ids }) => ids),
  losses: segments.flatMap(({ ids, loss }) => ids.map(() => loss)),
});

function recordTokens(dialogue: Dialogue, warts: RecordWarts, options: Partial<TokenizeOptions> = {}) {
  return koalaRecords(dialogue, warts).flatMap(({ record }) =>
    tokenizing(options)
      .tokenize(fieldsFormat.parse({ ...record }, {}).record)
      .examples.flatMap(documentsOf)
      .map(flat),
  );
}

const say = (role: string, content: string) => ({ role, content });
const dialogue = (record: Dialogue["record"], marker: Dialogue["marker"] = "positive"): Dialogue => ({
  kind: "dialogue",
  id: "t/f:1",
  source: "t",
  file: "f",
  line: 1,
  licence: null,
  record,
  marker,
  tags: {},
});

const twoTurns = dialogue({
  kind: "chat",
  tools: [],
  messages: [
    say("user", "Hello!"),
    say("assistant", "Hi! How can I help you?"),
    say("user", "What is the largest animal on earth?"),
    say("assistant", "The blue whale."),
  ],
});

const pair = dialogue({
  kind: "preference",
  tools: [],
  messages: [say("user", "Hello!"), say("assistant", "Hi."), say("user", "Why?")],
  chosen: [say("assistant", "Because.")],
  rejected: [say("assistant", "Go away.")],
});

const alone = (text: string): number[] => llama.encode(text, { addSpecialTokens: false });

describe("without warts", () => {
  test.each<[string, Dialogue]>([
    ["a conversation", twoTurns],
    ["a conversation behind the negative marker", { ...twoTurns, marker: "negative" }],
    ["a pair", pair],
    [
      "a system message and a masked answer",
      dialogue({
        kind: "chat",
        tools: [],
        messages: [say("system", "Be brief."), ...twoTurns.record.messages].map((message, i) =>
          i === 2 ? { ...message, weight: 0 } : message,
        ),
      }),
    ],
  ])("%s has the tokens and losses of the dialogue itself", (_name, given) => {
    const { record, marker } = given;
    const own = tokenizing()
      .tokenize(record.kind === "chat" ? { ...record, marker } : record)
      .examples.flatMap(documentsOf)
      .map(flat);
    expect(recordTokens(given, none)).toEqual(own);
    expect(own[0]!.losses).toContain(1);
  });

  test("the prompt of EasyLM's documentation has the ids of its fields, each encoded alone, and loss on answers and ends", () => {
    const [{ ids, losses }] = recordTokens(twoTurns, none, { bos: "none" }) as [ReturnType<typeof flat>];
    const parts: [number[], number][] = [
      [alone("BEGINNING OF CONVERSATION: USER: Hello! GPT:"), 0],
      [alone("Hi! How can I help you?"), 1],
      [[2], 1],
      [alone("USER: What is the largest animal on earth? GPT:"), 0],
      [alone("The blue whale."), 1],
      [[2], 1],
    ];
    expect(ids).toEqual(parts.flatMap(([part]) => part));
    expect(losses).toEqual(parts.flatMap(([part, loss]) => part.map(() => loss)));
    expect(ids.map((id) => llama.tokenString(id)).join("")).toBe(
      "▁BEGINNING▁OF▁CONVERSATION:▁USER:▁Hello!▁GPT:▁Hi!▁How▁can▁I▁help▁you?</s>▁USER:▁What▁is▁the▁largest▁animal▁on▁earth?▁GPT:▁The▁blue▁whale.</s>",
    );
  });
});

test("with the original's warts a pair is what create_hf_data_v2.py writes of it", () => {
  const markers = { marker_user: "USER:", marker_gpt: "GPT:", marker_gpt_bad: "An Unhelpful Answer:" };
  const [chosen, rejected] = koalaRecords(pair, { ...wartsOf("koala"), double_eos: false });
  expect(chosen!.record).toEqual({
    ...markers,
    human_0: "Hello!",
    gpt_1: "Hi.",
    human_2: "Why?",
    gpt_3: "Because.",
    fields: "[marker_user+human_0+marker_gpt],gpt_1,<|eos|>,[marker_user+human_2+marker_gpt],gpt_3,<|eos|>",
  });
  expect(rejected!.record).toEqual({
    ...markers,
    human_0: "Hello!",
    gpt_bad_1: "Hi.",
    human_2: "Why?",
    gpt_bad_3: "Go away.",
    fields:
      "[marker_user+human_0+marker_gpt_bad],gpt_bad_1,<|eos|>,[marker_user+human_2+marker_gpt_bad],gpt_bad_3,<|eos|>",
  });
});

describe("each wart alone", () => {
  const only = (...names: string[]) => wartsOf("none", Object.fromEntries(names.map((name) => [name, true])));

  test("negative_marker_everywhere: the shared answer of the rejected side gets the bad marker, too", () => {
    const count = (warts: RecordWarts): number =>
      koalaRecords(pair, warts)[1]!.record.fields.split("marker_gpt_bad").length - 1;
    expect([count(none), count(only("negative_marker_everywhere"))]).toEqual([1, 2]);
  });

  test("loss_on_shared_turns: the shared answer is trained on once with each side", () => {
    const trained = (warts: RecordWarts): number[] =>
      recordTokens(pair, warts).map(({ losses }) => losses.filter((loss) => loss > 0).length);
    const shared = alone("Hi.").length + 1;
    const [chosen, rejected] = trained(none) as [number, number];
    expect(trained(only("loss_on_shared_turns"))).toEqual([chosen + shared, rejected + shared]);
  });

  test("double_eos: a second end of sequence with loss", () => {
    const [once] = recordTokens(twoTurns, none);
    const [twice] = recordTokens(twoTurns, only("double_eos"));
    expect(twice).toEqual({ ids: [...once!.ids, 2], losses: [...once!.losses, 1] });
  });

  test("no_bos: nothing before the first token", () => {
    expect(trainingSettings(only("no_bos")).data).toEqual({ bos: "none" });
    const [withBos] = recordTokens(twoTurns, none);
    const [without] = recordTokens(twoTurns, none, { bos: "none" });
    expect(withBos!.ids).toEqual([1, ...without!.ids]);
  });

  test("row_mean_loss: a token of a row with few answers weighs more", () => {
    expect(trainingSettings(only("row_mean_loss")).lossReduction).toBe("row");
    const row = (answers: number) => [
      { ids: new Int32Array(9), weights: new Float32Array(9).fill(1, 9 - answers) },
    ];
    const rows = [row(2), row(6)];
    expect(rowFactors(rows, { type: "sft", reduction: "token" })).toEqual([1 / 8, 1 / 8]);
    expect(rowFactors(rows, { type: "sft", reduction: "row" })).toEqual([1 / 4, 1 / 12]);
    // A row without answers is 0 in EasyLM's mean, and counts.
    expect(rowFactors([row(2), row(0)], { type: "sft", reduction: "row" })).toEqual([1 / 4, 0]);
  });

  const hh = (chosen: string, options: { split?: string; echo?: boolean }) =>
    hhSource
      .parse({ chosen, rejected: `${chosen} Or not.` }, options)
      .map(({ record, marker }) => [
        marker,
        record.kind,
        ...record.messages.map(({ role, content }) => `${role}: ${String(content)}`),
      ])[0];

  test("hh_split_anywhere: a name inside a text begins a turn, and what follows a second answer is lost", () => {
    const text = "\n\nHuman: Say Assistant: twice\n\nAssistant: Human: no. Assistant: yes.";
    expect(hh(text, { split: "anywhere" })).toEqual([
      "positive",
      "chat",
      "user: Say",
      "assistant: twice",
      "user: no.",
      "assistant: yes.",
    ]);
    expect(hh(text, {})).toEqual([undefined, "preference", "user: Say Assistant: twice"]);
  });

  test("hh_echo: a question without a reply is answered by itself, with loss", () => {
    const text = "\n\nHuman: Are you there?\n\nHuman: Hello?\n\nAssistant: Yes.";
    expect(hh(text, { echo: true })).toEqual([
      "positive",
      "chat",
      "user: Are you there?",
      "assistant: Are you there?",
      "user: Hello?",
      "assistant: Yes.",
    ]);
    expect(hh(text, {})!.slice(2)).toEqual(["user: Are you there?\n\nHello?"]);
  });

  const table = (warts: object, more: object = {}) =>
    checkCurationRecipe(
      {
        name: "t",
        train: {},
        warts,
        sources: ["alpaca", "webgpt", "summarization", "oig", "hh"].map((source) => ({
          source,
          files: ["x"],
        })),
        ...more,
      },
      "t.toml",
    );

  test.each([
    ["alpaca_space", "alpaca", { joiner: " " }],
    ["webgpt_spaces", "webgpt", { compat: true }],
    ["summary_phrases", "summarization", { phrases: "koala" }],
    ["oig_no_background", "oig", { leading: "drop" }],
    ["hh_split_anywhere", "hh", { split: "anywhere" }],
    ["hh_echo", "hh", { echo: true }],
  ])("%s is a setting of its parser", (wart, source, options) => {
    const optionsOf = (warts: object) => table(warts).sources.find(({ name }) => name === source)!.options;
    expect(optionsOf({ [wart]: true })).toEqual(options);
    expect(optionsOf({})).toEqual({});
  });

  test("alpaca_space: one space joins instruction and input", () => {
    const record = { instruction: "Sort:", input: "b\na", output: "a\nb" };
    const text = (options: { joiner?: string }) =>
      sourceNamed("alpaca").parse(record as JsonObject, options)[0]!.record.messages[0]!.content;
    expect([text({ joiner: " " }), text({})]).toEqual(["Sort: b\na", "Sort:\n\nb\na"]);
  });

  test("keyword_substring: open ai is found in open air", async () => {
    const filters = [{ rule: "keywords" }];
    const drops = async (warts: object): Promise<boolean> => {
      const { spec } = table(warts, { filters }).filters[0]!;
      const [filter] = await buildFilters([spec], { seed: 0, directory: "" });
      const said = dialogue({
        kind: "chat",
        tools: [],
        messages: [say("user", "Fun?"), say("assistant", "The open air.")],
      });
      return "dropped" in filter!.apply(said);
    };
    expect([await drops({}), await drops({ keyword_substring: true })]).toEqual([false, true]);
  });

  test("stream_packing: rows are BOS and slices of all documents laid end to end", async () => {
    const [model, directory] = [await llamaFolder(), temporaryFolder("stream")];
    const file = join(directory, "t.jsonl");
    const given = Array.from({ length: 6 }, (_, i) => ({
      ...twoTurns,
      record: {
        ...twoTurns.record,
        messages: twoTurns.record.messages.map((m) => ({ ...m, content: `${m.content} ${i}` })),
      },
    })) as Dialogue[];
    await Bun.write(file, given.map((one) => JSON.stringify(one)).join("\n"));
    const options = {
      files: [file],
      model,
      template: "koala",
      directory,
      bos: "none",
      sequenceLength: 32,
    } as const;
    const dataset = openDataset((await prepareDataset({ ...options, packing: "stream" })).directory);
    const stream = given
      .flatMap((one) => tokenizing({ bos: "none" }).tokenize(one.record).examples.flatMap(documentsOf))
      .map(flat);
    const ids = stream.flatMap((one) => one.ids);
    const losses = stream.flatMap((one) => one.losses);
    expect(dataset.documents).toBe(Math.floor(ids.length / 31));
    for (let row = 0; row < dataset.documents; row++) {
      const { ids: found, weights } = dataset.read(row);
      expect([...found]).toEqual([1, ...ids.slice(31 * row, 31 * row + 31)]);
      expect([...weights].slice(1)).toEqual(losses.slice(31 * row, 31 * row + 31));
    }
    dataset.close();
    // Ours: no document is longer than a row, and no row holds a part of one.
    expect(prepareDataset({ ...options, directory: temporaryFolder("whole") })).rejects.toThrow("too-long");
  });

  test("every wart is in the compatibility mode, and can be taken out of it", () => {
    expect(Object.values(wartsOf("koala")).every(Boolean)).toBe(true);
    for (const name of wartNames)
      expect(Object.entries(wartsOf("koala", { [name]: false })).filter(([, on]) => !on)).toEqual([
        [name, false],
      ]);
  });
});

const real = join(sharedDirectory, "data", "hh_harmless_base_a.jsonl.gz");
test.skipIf(!existsSync(real))(
  `of the real HH file the original's parser misreads the records that spec and issue name (${withoutShared})`,
  async () => {
    const sides = async (options: { split?: string; echo?: boolean }): Promise<string[]> => {
      const found: string[] = [];
      for await (const one of readDialogues(real, { source: "hh", options }))
        if (one.verdict !== "dropped") found.push(JSON.stringify(one.dialogue.record.messages));
      return found;
    };
    const original = await sides({ split: "anywhere", echo: true });
    const strict = await sides({ echo: true });
    expect(original).toHaveLength(2312);
    const misread = original.filter((side, i) => side !== strict[i]).length;
    // koala-spec §1.3: 80 of the whole file's 4624, 1.7 %; this is its first half.
    expect(Math.abs(misread / original.length - 80 / 4624)).toBeLessThan(0.002);
    const echoed = (await sides({ split: "anywhere" })).filter((side, i) => side !== original[i]).length;
    expect(echoed).toBeGreaterThan(0);
    expect(echoed).toBeLessThanOrEqual(misread + 13);
  },
);
