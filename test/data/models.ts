/** Tokenizers and templates for data tests: one of ChatML's kind and one of LLaMA's, in memory and as model folders. */
import { join } from "node:path";
import { namedTemplate, type ChatTemplate } from "../../src/text/template.ts";
import { createTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { parseTokenizerFile, type JsonObject } from "../../src/text/tokenizer_file.ts";
import { temporaryFolder } from "../support/temporary.ts";
import {
  byteLevelJson,
  qwen2Regex,
  sentencePieceConfig,
  sentencePieceJson,
  splitThenBytes,
} from "../text/corpus.ts";

const chatmlJson: JsonObject = byteLevelJson(splitThenBytes(qwen2Regex), {
  specials: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
});

export const chatml: Tokenizer = createTokenizer(
  parseTokenizerFile({ path: "t", json: chatmlJson, config: { eos_token: "<|endoftext|>" } }),
);

export const llama: Tokenizer = createTokenizer(
  parseTokenizerFile({ path: "t", json: sentencePieceJson(), config: sentencePieceConfig }),
);

/** A folder with LLaMA's kind of tokenizer and no template. */
export async function llamaFolder(): Promise<string> {
  const folder = temporaryFolder("data-model");
  await Bun.write(join(folder, "tokenizer.json"), JSON.stringify(sentencePieceJson()));
  await Bun.write(join(folder, "tokenizer_config.json"), JSON.stringify(sentencePieceConfig));
  return folder;
}

export async function jinja(source: string, tokenizer: Tokenizer): Promise<ChatTemplate> {
  const path = join(temporaryFolder("data-template"), "template.jinja");
  await Bun.write(path, source);
  return namedTemplate(path, tokenizer);
}

/** As LLaMA 2 chat models publish it. */
export const llama2Template =
  "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

/** ChatML that takes thoughts out of all answers but the last, as Qwen3's template does. */
export const forgetfulTemplate =
  "{% for message in messages %}{% set content = message.content %}{% if message.role == 'assistant' and not loop.last %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
