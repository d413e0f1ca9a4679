/** `koala generate`: one completion on stdout, from a prompt on the command line or on stdin. */
import type { Command } from "commander";
import { UsageError } from "../util/errors.ts";
import { openApi } from "./api.ts";
import { endWithReader, printAnswer } from "./lines.ts";
import { addModelFlags, integer, number } from "./model_options.ts";
import type { ServedModelFlags } from "./served_model.ts";

interface GenerateFlags extends ServedModelFlags {
  model: string;
  prompt?: string;
  chat?: boolean;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  seed?: number;
  stop?: string[];
  apiKey?: string;
}

export function register(program: Command): void {
  const command = program
    .command("generate")
    .description("complete one prompt and print the answer")
    .requiredOption("--model <name>", "folder, hub name, or URL of a running server")
    .option("--prompt <text>", "the prompt (default: all of stdin)")
    .option("--chat", "send the prompt as a user message through the model's chat template")
    .option("--max-tokens <n>", "longest answer in tokens", integer(1, 2 ** 24))
    .option("--temperature <t>", "0 is greedy (default: the model's)", number(0, 2))
    .option("--top-p <p>", "keep the most likely tokens up to this probability", number(0, 1))
    .option("--seed <n>", "same seed, same answer", integer(0, 2 ** 31 - 1))
    .option("--stop <text...>", "end the answer before this text")
    .option("--api-key <key>", "key for a server given by URL")
    .option("--chat-template <name>", "koala, chatml or a Jinja file instead of the model's own template");
  addModelFlags(command).action(run);
}

async function run(flags: GenerateFlags): Promise<void> {
  const prompt = flags.prompt ?? (await Bun.stdin.text());
  if (prompt === "") throw new UsageError("The prompt is empty; give --prompt TEXT or write it to stdin.");
  endWithReader();
  const api = await openApi(flags.model, flags);
  try {
    const body = { model: api.modelId, stream: true, ...sampling(flags) };
    const chunks = flags.chat
      ? api.post("/v1/chat/completions", { ...body, messages: [{ role: "user", content: prompt }] })
      : api.post("/v1/completions", { ...body, prompt });
    for await (const { choices } of chunks) printAnswer(choices[0]?.text ?? choices[0]?.delta?.content ?? "");
    process.stdout.write("\n");
  } finally {
    await api.close();
  }
}

/** Only what was asked for: the server knows the defaults. */
export function sampling(
  flags: Pick<GenerateFlags, "maxTokens" | "temperature" | "topP" | "seed" | "stop">,
): Record<string, unknown> {
  const fields = {
    max_tokens: flags.maxTokens,
    temperature: flags.temperature,
    top_p: flags.topP,
    seed: flags.seed,
    stop: flags.stop,
  };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
