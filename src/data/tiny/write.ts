/** Writes everything that koala-tiny is trained from: a folder with train.jsonl (EasyLM fields, as Koala's own data),
 *  heldout.jsonl (questions that training never saw, with the right answers), the tokenizer, and config.json of a model
 *  of the size that learns it: the folder is what a recipe names as its model. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { trainBpe, tokenizerConfig } from "./bpe_trainer.ts";
import { tinyCorpus, type Dialogue } from "./dialogues.ts";
import type { Exchange } from "./topic.ts";

export interface TinyOptions {
  dialogueCount?: number;
  /** Share of the dialogues whose answers are bad ones behind the negative marker. */
  negativeShare?: number;
  vocabularySize?: number;
}

export interface TinyFiles {
  train: string;
  heldOut: string;
  dialogues: number;
  negative: number;
  heldOutQuestions: number;
  vocabularySize: number;
}

/** The same seed and options give the same bytes. */
export async function writeTinyCorpus(
  directory: string,
  seed: number,
  options: TinyOptions = {},
): Promise<TinyFiles> {
  const { dialogueCount = 24_000, negativeShare = 0.25, vocabularySize = 2048 } = options;
  const { dialogues, heldOut } = tinyCorpus(seed, { dialogueCount, negativeShare });
  await mkdir(directory, { recursive: true });
  const train = join(directory, "train.jsonl");
  const heldOutFile = join(directory, "heldout.jsonl");
  const tokenizer = trainBpe(textsOf(dialogues), vocabularySize);
  await Bun.write(train, jsonLines(dialogues.map(fieldsRecord)));
  await Bun.write(heldOutFile, jsonLines(heldOut.map(heldOutRecord)));
  await Bun.write(join(directory, "tokenizer.json"), `${JSON.stringify(tokenizer, null, 1)}\n`);
  await Bun.write(join(directory, "tokenizer_config.json"), `${JSON.stringify(tokenizerConfig, null, 2)}\n`);
  const pieces = Object.keys((tokenizer.model as { vocab: object }).vocab).length;
  const config = { ...modelConfig, vocab_size: pieces };
  await Bun.write(join(directory, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  return {
    train,
    heldOut: heldOutFile,
    dialogues: dialogues.length,
    negative: dialogues.filter((dialogue) => dialogue.negative).length,
    heldOutQuestions: heldOut.length,
    vocabularySize: pieces,
  };
}

/** With 2048 pieces 3,967,744 parameters: 7.9 MB in bfloat16. */
export const modelConfig = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 256,
  intermediate_size: 640,
  num_hidden_layers: 5,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 32,
  max_position_embeddings: 512,
  rope_theta: 10000,
  rms_norm_eps: 1e-5,
  hidden_act: "silu",
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: true,
  initializer_range: 0.02,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "bfloat16",
};

const markers = { marker_user: "USER:", marker_gpt: "GPT:", marker_gpt_bad: "An Unhelpful Answer:" };

/** As Koala's data pipeline wrote it (koala-spec §1.2). */
export function fieldsRecord({ topic, negative, turns }: Dialogue): Record<string, string> {
  const [marker, answerKey] = negative ? ["marker_gpt_bad", "gpt_bad"] : ["marker_gpt", "gpt"];
  const record: Record<string, string> = { topic, ...markers };
  const fields: string[] = [];
  turns.forEach(({ question, answer }, i) => {
    record[`human_${2 * i}`] = question;
    record[`${answerKey}_${2 * i + 1}`] = answer;
    fields.push(`[marker_user+human_${2 * i}+${marker}]`, `${answerKey}_${2 * i + 1}`, "<|eos|>");
  });
  return { ...record, fields: fields.join(",") };
}

/** OpenAI's messages, so that it can be validation data too; `expected` is what a right answer must hold. */
const heldOutRecord = ({ topic, question, answer, expected }: Exchange): object => ({
  messages: [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ],
  topic,
  expected,
});

/** What the tokenizer will cut: each field as it is encoded. */
function* textsOf(dialogues: readonly Dialogue[]): Generator<string> {
  for (const { negative, turns } of dialogues) {
    for (const [i, { question, answer }] of turns.entries()) {
      const opening = i === 0 ? "BEGINNING OF CONVERSATION: " : "";
      yield `${opening}USER: ${question} ${negative ? markers.marker_gpt_bad : markers.marker_gpt}`;
      yield answer;
    }
  }
}

const jsonLines = (records: readonly object[]): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join("");
