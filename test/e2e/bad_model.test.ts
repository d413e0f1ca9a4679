import { describe, expect, test } from "bun:test";
import { mkdir, readFile, rename, symlink, truncate, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { startKoala } from "../support/koala_process.ts";
import { expectOneSentence, koala, shared } from "../support/refusal.ts";
import { type Entry, header } from "../support/spoiled_weights.ts";
import { temporaryFolder } from "../support/temporary.ts";
import {
  type Json,
  type JsonObject,
  makeTinyModel,
  tinyTokenizer,
  writeJson,
} from "../support/tiny_model.ts";

const folder = temporaryFolder("bad-models");

interface Case {
  name: string;
  /** Makes a sound model folder unsound. */
  spoil: (directory: string) => Promise<void>;
  says: RegExp;
  verb?: "serve" | "convert";
  flags?: string[];
}

const edit = async (directory: string, file: string, change: (json: JsonObject) => void): Promise<void> => {
  const json = JSON.parse(await readFile(join(directory, file), "utf8")) as JsonObject;
  change(json);
  await writeJson(directory, file, json);
};
const config = (change: (json: JsonObject) => void) => (directory: string) =>
  edit(directory, "config.json", change);
const tokenizer = (change: (json: JsonObject) => void) => async (directory: string) => {
  const json = tinyTokenizer();
  change(json);
  await writeJson(directory, "tokenizer.json", json);
};
const vocabulary = (change: (vocabulary: { [piece: string]: Json }) => void) =>
  tokenizer((json) => change((json["model"] as JsonObject)["vocab"] as JsonObject));
const settings = (change: (json: JsonObject) => void) => (directory: string) =>
  edit(directory, "tokenizer_config.json", change);

const firstNorm = "model.layers.0.input_layernorm.weight";
const entry = (tensors: Record<string, Entry>, name = firstNorm): Entry => tensors[name]!;
const weights = async (directory: string): Promise<string> => join(directory, "model.safetensors");

const cases: Case[] = [
  { name: "no config.json", spoil: (d) => unlink(join(d, "config.json")), says: /config\.json/ },
  {
    name: "config.json is not JSON",
    spoil: (d) => writeFile(join(d, "config.json"), '{"hidden_size":'),
    says: /config\.json is not JSON/,
  },
  {
    name: "config.json is a list",
    spoil: (d) => writeFile(join(d, "config.json"), "[]"),
    says: /config\.json is not a JSON object/,
  },
  {
    name: "unsupported architecture",
    spoil: config((c) => (c["architectures"] = ["MambaForCausalLM"])),
    says: /MambaForCausalLM.*LlamaForCausalLM/,
  },
  {
    name: "unsupported rope",
    spoil: config((c) => (c["rope_parameters"] = { rope_type: "longrope" })),
    says: /longrope/,
  },
  {
    name: "unsupported activation",
    spoil: config((c) => (c["hidden_act"] = "gelu")),
    says: /hidden_act gelu/,
  },
  {
    name: "quantised weights",
    spoil: config((c) => (c["quantization_config"] = { quant_method: "gptq" })),
    says: /gptq/,
  },
  {
    name: "a size that is a text",
    spoil: config((c) => (c["hidden_size"] = "64")),
    says: /config\.json: hidden_size is "64"/,
  },
  {
    name: "a size that is zero",
    spoil: config((c) => (c["num_attention_heads"] = 0)),
    says: /num_attention_heads is 0/,
  },
  { name: "a size that is huge", spoil: config((c) => (c["hidden_size"] = 2 ** 40)), says: /hidden_size/ },
  {
    name: "a missing size",
    spoil: config((c) => delete c["num_hidden_layers"]),
    says: /num_hidden_layers is missing/,
  },
  {
    name: "more layers than weights",
    spoil: config((c) => (c["num_hidden_layers"] = 3)),
    says: /model\.layers\.2\.\S+/,
  },
  {
    name: "fewer layers than weights",
    spoil: config((c) => (c["num_hidden_layers"] = 1)),
    says: /model\.layers\.1\.\S+/,
  },
  {
    name: "a million layers",
    spoil: config((c) => (c["num_hidden_layers"] = 1_000_000)),
    says: /num_hidden_layers 1000000/,
  },
  {
    name: "a width that the weights contradict",
    spoil: config((c) => (c["intermediate_size"] = 2 ** 31 - 1)),
    says: /mlp\.\S+ has shape/,
  },
  {
    name: "eos ids that are texts",
    spoil: config((c) => (c["eos_token_id"] = "two")),
    says: /eos_token_id is "two"/,
  },
  {
    name: "config vocabulary smaller than the tokenizer's",
    spoil: config((c) => (c["vocab_size"] = 500)),
    says: /tokenizer\.json.*500/,
  },
  {
    name: "missing tensor",
    spoil: header((t) => {
      t["model.layers.0.extra"] = entry(t);
      delete t[firstNorm];
    }),
    says: /model\.layers\.0\.input_layernorm\.weight/,
  },
  {
    name: "misshapen tensor",
    spoil: header((t) => (entry(t).shape = [8, 8])),
    says: /input_layernorm\.weight has shape \[8,8\].*\[64\]/,
  },
  {
    name: "unknown dtype",
    spoil: header((t) => (entry(t).dtype = "F128")),
    says: /model\.safetensors.*F128/,
  },
  {
    name: "integer weights",
    spoil: header((t) => (entry(t).dtype = "I32")),
    says: /model\.safetensors.*I32/,
  },
  {
    name: "overlapping tensors",
    spoil: header((t) => {
      const e = entry(t);
      e.data_offsets = [e.data_offsets[0] - 4, e.data_offsets[1] - 4];
    }),
    says: /model\.safetensors.*(overlaps|hole)/,
  },
  {
    name: "negative offsets",
    spoil: header((t) => (entry(t).data_offsets = [-256, 0])),
    says: /model\.safetensors.*data_offsets/,
  },
  { name: "header length too large", spoil: header(() => {}, 1e6), says: /model\.safetensors.*header/ },
  { name: "header length too small", spoil: header(() => {}, -5), says: /model\.safetensors.*header/ },
  {
    name: "truncated weights",
    spoil: async (d) => truncate(await weights(d), 300_000),
    says: /model\.safetensors.*300000/,
  },
  { name: "empty weights", spoil: async (d) => truncate(await weights(d), 0), says: /model\.safetensors/ },
  {
    name: "weights that are a Git LFS pointer",
    spoil: async (d) =>
      writeFile(await weights(d), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    says: /model\.safetensors/,
  },
  {
    name: "weights that are a folder",
    spoil: async (d) => {
      await unlink(await weights(d));
      await mkdir(await weights(d));
    },
    says: /model\.safetensors/,
  },
  {
    name: "weights that link to nothing",
    spoil: async (d) => {
      await unlink(await weights(d));
      await symlink("/nowhere/x", await weights(d));
    },
    says: /model\.safetensors/,
  },
  {
    name: "only pytorch_model.bin",
    spoil: async (d) => rename(await weights(d), join(d, "pytorch_model.bin")),
    says: /pytorch_model\.bin.*safetensors/,
  },
  { name: "no weights", spoil: async (d) => unlink(await weights(d)), says: /model\.safetensors/ },
  {
    name: "a missing shard",
    spoil: async (d) => {
      await unlink(await weights(d));
      await writeJson(d, "model.safetensors.index.json", {
        weight_map: { [firstNorm]: "model-00002-of-00002.safetensors" },
      });
    },
    says: /model-00002-of-00002\.safetensors/,
  },
  {
    name: "an index that leads out of the folder",
    spoil: async (d) => {
      await unlink(await weights(d));
      await writeJson(d, "model.safetensors.index.json", { weight_map: { a: "../../x.safetensors" } });
    },
    says: /index\.json.*\.\.\/\.\.\/x/,
  },
  { name: "no tokenizer.json", spoil: (d) => unlink(join(d, "tokenizer.json")), says: /tokenizer\.json/ },
  {
    name: "truncated tokenizer.json",
    spoil: (d) => truncate(join(d, "tokenizer.json"), 2000),
    says: /tokenizer\.json/,
  },
  {
    name: "tokenizer.json without a model",
    spoil: (d) => writeJson(d, "tokenizer.json", {}),
    says: /tokenizer\.json.*"model"/,
  },
  { name: "negative token ids", spoil: vocabulary((v) => (v["!"] = -3)), says: /tokenizer\.json.*"!".*-3/ },
  {
    name: "token ids beyond all bounds",
    spoil: vocabulary((v) => (v["!"] = 2 ** 40)),
    says: /tokenizer\.json.*1099511627776/,
  },
  {
    name: "token ids that are texts",
    spoil: vocabulary((v) => (v["!"] = "7")),
    says: /tokenizer\.json.*"7"/,
  },
  { name: "two tokens of one id", spoil: vocabulary((v) => (v["!"] = 40)), says: /tokenizer\.json.*\b40\b/ },
  {
    name: "token ids beyond the weights",
    spoil: vocabulary((v) => (v["koala"] = 600)),
    says: /tokenizer\.json.*"koala".*600.*512/,
  },
  {
    name: "merges of unknown pieces",
    spoil: tokenizer((j) => (((j["model"] as JsonObject)["merges"] as Json[])[3] = ["qqq", "e"])),
    says: /tokenizer\.json.*merge 3.*"qqq"/,
  },
  {
    name: "merges that are no pairs",
    spoil: tokenizer((j) => (((j["model"] as JsonObject)["merges"] as Json[])[3] = 5)),
    says: /tokenizer\.json.*merge 3/,
  },
  {
    name: "added token over another's id",
    spoil: tokenizer((j) => ((j["added_tokens"] as JsonObject[])[2]!["id"] = 40)),
    says: /tokenizer\.json.*"<\/s>"/,
  },
  {
    name: "unknown tokenizer model",
    spoil: tokenizer((j) => ((j["model"] as JsonObject)["type"] = "Rot13")),
    says: /tokenizer\.json.*Rot13/,
  },
  {
    name: "unknown normalizer",
    spoil: tokenizer((j) => (j["normalizer"] = { type: "Upside" })),
    says: /tokenizer\.json.*Upside/,
  },
  {
    name: "unknown pre-tokenizer",
    spoil: tokenizer((j) => (j["pre_tokenizer"] = { type: "Chop" })),
    says: /tokenizer\.json.*Chop/,
  },
  {
    name: "unknown decoder",
    spoil: tokenizer((j) => (j["decoder"] = { type: "Glue" })),
    says: /tokenizer\.json.*Glue/,
  },
  {
    name: "a pattern that is no regular expression",
    spoil: tokenizer(
      (j) =>
        (j["pre_tokenizer"] = {
          type: "Split",
          pattern: { Regex: "(" },
          behavior: "Isolated",
          invert: false,
        }),
    ),
    says: /tokenizer\.json.*[Rr]egular expression/,
  },
  {
    name: "post-processor with an unknown token",
    spoil: tokenizer(
      (j) =>
        (j["post_processor"] = {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "<x>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
          pair: [],
          special_tokens: {},
        }),
    ),
    says: /tokenizer\.json.*<x>/,
  },
  {
    name: "tokenizer_config.json is not JSON",
    spoil: (d) => writeFile(join(d, "tokenizer_config.json"), "{"),
    says: /tokenizer_config\.json/,
  },
  {
    name: "generation_config.json is not JSON",
    spoil: (d) => writeFile(join(d, "generation_config.json"), "{"),
    says: /generation_config\.json/,
  },
  {
    name: "generation_config.json with a temperature of -1",
    spoil: (d) => writeJson(d, "generation_config.json", { temperature: -1 }),
    says: /generation_config\.json: temperature is -1/,
  },
  {
    name: "generation_config.json with a top_p of 7",
    spoil: (d) => writeJson(d, "generation_config.json", { top_p: 7 }),
    says: /generation_config\.json: top_p is 7/,
  },
  {
    name: "a template with a syntax error",
    spoil: settings((c) => (c["chat_template"] = "{% for m in messages %}{{ m.role }")),
    says: /template/,
  },
  {
    name: "a template that is a number",
    spoil: settings((c) => (c["chat_template"] = 5)),
    says: /chat_template.*tokenizer_config\.json/,
  },
  {
    name: "convert without config.json",
    verb: "convert",
    spoil: (d) => unlink(join(d, "config.json")),
    says: /config\.json/,
  },
  {
    name: "convert of truncated weights",
    verb: "convert",
    spoil: async (d) => truncate(await weights(d), 300_000),
    says: /model\.safetensors.*300000/,
  },
  {
    name: "convert of an unknown dtype",
    verb: "convert",
    spoil: header((t) => (entry(t).dtype = "F128")),
    says: /F128/,
  },
  {
    name: "--max-model-len beyond the model",
    flags: ["--max-model-len", "100000"],
    spoil: async () => {},
    says: /--max-model-len 100000.*256/,
  },
  {
    name: "--cache-memory too small for one sequence",
    flags: ["--max-model-len", "256", "--cache-memory", "0.0001"],
    spoil: async () => {},
    says: /--cache-memory/,
  },
  {
    name: "a --chat-template that does not exist",
    flags: ["--chat-template", "nowhere.jinja"],
    spoil: async () => {},
    says: /nowhere\.jinja/,
  },
];

describe("a model folder that cannot be served is refused in one sentence", () => {
  const outcome = shared(cases, async ({ spoil, verb = "serve", flags = [] }, i) => {
    const directory = await makeTinyModel(join(folder, `case-${i}`), { ownWeights: true });
    await spoil(directory);
    const rest = verb === "serve" ? ["--port", "0", "--threads", "1"] : ["--out", join(folder, `out-${i}`)];
    return koala([verb, "--model", directory, ...rest, ...flags]);
  });
  for (const one of cases)
    test(one.name, async () => expectOneSentence(await outcome(one), one.says), 60_000);
});

describe("a server that runs", () => {
  test("an added token beyond the embedding is refused by whoever writes it, as the request's mistake", async () => {
    const directory = await makeTinyModel(join(folder, "beyond"));
    await tokenizer((json) => {
      (json["added_tokens"] as Json[]).push({ id: 600, content: "<|beyond|>", special: true });
    })(directory);
    const server = await startKoala(["--model", directory, "--threads", "1"]);
    try {
      const ask = (path: string, body: object) =>
        fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
      for (const [path, body] of [
        ["/v1/completions", { prompt: "a<|beyond|>b" }],
        ["/v1/embeddings", { input: "a<|beyond|>b" }],
        ["/loglikelihood", { prefix_text: ["a"], text: ["<|beyond|>"] }],
      ] as const) {
        const answer = await ask(path, body);
        const { error } = (await answer.json()) as { error: { message: string } };
        expect({ path, status: answer.status, message: error.message }).toEqual({
          path,
          status: 400,
          message: expect.stringMatching(/token id 600.*511/),
        });
      }
    } finally {
      await server.stop();
    }
  }, 60_000);

  test("a template that loops for ever costs its request a 400 and nobody else anything", async () => {
    const chatTemplate =
      "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% set x = i %}{% endfor %}{% endfor %}{% endfor %}";
    const server = await startKoala([
      "--model",
      await makeTinyModel(join(folder, "endless"), { chatTemplate }),
      "--threads",
      "1",
    ]);
    try {
      const ask = (path: string, body: object) =>
        fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
      const answer = await ask("/v1/chat/completions", { messages: [{ role: "user", content: "hi" }] });
      const { error } = (await answer.json()) as { error: { message: string } };
      expect({ status: answer.status, message: error.message }).toEqual({
        status: 400,
        message: expect.stringMatching(/template.*(steps|ms)/),
      });
      expect((await ask("/v1/completions", { prompt: "hi", max_tokens: 2 })).status).toBe(200);
      // The same port again: the second server says so, the first does not notice.
      const port = new URL(server.url).port;
      expectOneSentence(
        await koala(["serve", "--model", await makeTinyModel(join(folder, "second")), "--port", port]),
        new RegExp(`127\\.0\\.0\\.1:${port}.*in use`),
      );
      expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
    } finally {
      await server.stop();
    }
  }, 60_000);
});
