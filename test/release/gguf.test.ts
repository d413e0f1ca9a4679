/** GGUF files: read back by a reader written from the format's description, every value is the model's. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { exportGguf, quantize8 } from "../../src/release/gguf/export.ts";
import { vocabularyMetadata } from "../../src/release/gguf/vocabulary.ts";
import { familyDirectory } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = temporaryFolder("gguf");

interface ReadFile {
  metadata: Map<string, unknown>;
  tensors: Map<string, { shape: number[]; type: number; bytes: Uint8Array }>;
}

function readGguf(path: string): ReadFile {
  const file = readFileSync(path);
  let at = 0;
  const u32 = (): number => file.readUInt32LE((at += 4) - 4);
  const u64 = (): number => Number(file.readBigUInt64LE((at += 8) - 8));
  const text = (): string => {
    const length = u64();
    return file.toString("utf8", at, (at += length));
  };
  const value = (type: number): unknown => {
    if (type === 4) return u32();
    if (type === 5) return file.readInt32LE((at += 4) - 4);
    if (type === 6) return file.readFloatLE((at += 4) - 4);
    if (type === 7) return file[at++] === 1;
    if (type === 8) return text();
    if (type !== 9) throw new Error(`value type ${type}`);
    const item = u32();
    return Array.from({ length: u64() }, () => value(item));
  };
  expect(file.toString("latin1", 0, 4)).toBe("GGUF");
  at = 4;
  expect(u32()).toBe(3);
  const [tensorCount, valueCount] = [u64(), u64()];
  const metadata = new Map(Array.from({ length: valueCount }, () => [text(), value(u32())] as const));
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text();
    const shape = Array.from({ length: u32() }, u64).toReversed();
    return { name, shape, type: u32(), offset: u64() };
  });
  const begin = Math.ceil(at / 32) * 32;
  const tensors = new Map(
    infos.map(({ name, shape, type, offset }, i) => {
      expect(offset % 32).toBe(0);
      const end = infos[i + 1]?.offset ?? file.length - begin;
      return [name, { shape, type, bytes: file.subarray(begin + offset, begin + end) }];
    }),
  );
  return { metadata, tensors };
}

const tiny = join(import.meta.dir, "..", "..", "models", "koala-tiny");

const referenceQ8 =
  "081d8125c86c100057fb9e42e6892dd07418bb5f03a64aed9135d87c20c3670bae52" +
  "081df5993de08428cb6f13b65afda145e88c30d3771abe6205a94df09438db7f22c6" +
  "00000000000000000000000000000000000000000000000000000000000000000000" +
  "081dde8125c86c10b357fb9e42e6892dd07418bb5f03a64aed9135d87c20c3670bae";

describe("a GGUF file", () => {
  test("names architecture and sizes as llama.cpp reads them", async () => {
    const out = join(root, "tiny.gguf");
    const model = tiny;
    const { notes } = await exportGguf({ model, out, type: "BF16", chatTemplate: () => "{{ x }}" });
    expect(notes).toEqual([]);
    const { metadata, tensors } = readGguf(out);
    const config = (await Bun.file(join(tiny, "config.json")).json()) as { [name: string]: number };
    expect(Object.fromEntries(metadata)).toMatchObject({
      "general.architecture": "llama",
      "llama.block_count": config.num_hidden_layers,
      "llama.embedding_length": config.hidden_size,
      "llama.attention.head_count": config.num_attention_heads,
      "llama.attention.head_count_kv": config.num_key_value_heads,
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "starcoder",
      "tokenizer.ggml.bos_token_id": 1,
      "tokenizer.ggml.eos_token_id": 2,
      "tokenizer.chat_template": "{{ x }}",
    });
    const { tensors: own } = await openCheckpoint(tiny);
    expect(tensors.size).toBe(own.size);
    expect(tensors.get("token_embd.weight")!.shape).toEqual([...own.get("model.embed_tokens.weight")!.shape]);
  });

  test("turns the rows of queries and keys so that neighbouring pairs rotate, and leaves the rest", async () => {
    const out = join(root, "float.gguf");
    await exportGguf({ model: tiny, out, type: "BF16", chatTemplate: () => null });
    const { tensors } = readGguf(out);
    const { tensors: own } = await openCheckpoint(tiny);
    const bytes = (name: string): Uint8Array => {
      const { file, begin, end } = own.get(name)!;
      return readFileSync(file).subarray(begin, end);
    };
    const same = (name: string, foreign: string): void =>
      expect(Buffer.compare(tensors.get(foreign)!.bytes.subarray(0, bytes(name).length), bytes(name))).toBe(
        0,
      );
    same("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight");
    same("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight");
    const config = (await Bun.file(join(tiny, "config.json")).json()) as { [name: string]: number };
    const heads = config.num_attention_heads!;
    const { shape } = own.get("model.layers.0.self_attn.q_proj.weight")!;
    const [rowBytes, perHead] = [2 * shape[1]!, shape[0]! / heads];
    const row = (of: Uint8Array, i: number): Uint8Array => of.subarray(i * rowBytes, (i + 1) * rowBytes);
    const from = bytes("model.layers.0.self_attn.q_proj.weight");
    const to = tensors.get("blk.0.attn_q.weight")!.bytes;
    for (let head = 0; head < heads; head++)
      for (let i = 0; i < perHead / 2; i++) {
        const base = head * perHead;
        expect(row(to, base + 2 * i)).toEqual(row(from, base + i));
        expect(row(to, base + 2 * i + 1)).toEqual(row(from, base + perHead / 2 + i));
      }
  });

  test("quantises to 8 bits as the reference does", () => {
    const values = Float32Array.from(
      { length: 128 },
      (_, i) => Math.fround(((i * 7919) % 97) - 48) * Math.fround(0.013),
    );
    values.fill(0, 64, 96);
    values[5] = 1e-6;
    // gguf-py 0.17's quants.quantize of the same values.
    expect(Buffer.from(quantize8(values)).toString("hex")).toBe(referenceQ8);
  });

  test("is refused where its tokens would be other ones", async () => {
    const model = join(root, "foreign");
    await Bun.write(
      join(model, "tokenizer.json"),
      JSON.stringify({
        model: { type: "BPE", vocab: { a: 0 }, merges: [] },
        pre_tokenizer: { type: "Whitespace" },
      }),
    );
    const refused = vocabularyMetadata(model, 1);
    await expect(refused).rejects.toThrow(
      /The pre-tokenizer of .* \(Whitespace\) is none that llama\.cpp has built in/,
    );
    await expect(vocabularyMetadata(familyDirectory("llama-mha"), 1)).rejects.toThrow(
      "has no tokenizer.json",
    );
  });

  test("gives SentencePiece's scores in the order of the merges", async () => {
    const model = join(root, "pieces");
    const vocab = { "<unk>": 0, "<0x41>": 1, a: 2, b: 3, ab: 4, aba: 5 };
    const merges = [
      ["a", "b"],
      ["ab", "a"],
    ];
    await Bun.write(
      join(model, "tokenizer.json"),
      JSON.stringify({ model: { type: "BPE", byte_fallback: true, unk_token: "<unk>", vocab, merges } }),
    );
    const metadata = new Map(await vocabularyMetadata(model, 7));
    expect(metadata.get("tokenizer.ggml.scores")!.value).toEqual(
      [-1e6, 0, -1e6, -1e6, 0, -1, 0].map((x) => x + 0),
    );
    expect(metadata.get("tokenizer.ggml.token_type")!.value).toEqual([2, 6, 1, 1, 1, 1, 5]);
    expect(metadata.get("tokenizer.ggml.tokens")!.value).toEqual([...Object.keys(vocab), "[PAD6]"]);
  });
});
