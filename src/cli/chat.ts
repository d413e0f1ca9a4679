/** `koala chat MODEL`: a conversation in the terminal. Ctrl-C stops an answer, Ctrl-D ends the chat. */
import type { Command } from "commander";
import { UsageError } from "../util/errors.ts";
import { type Api, openApi } from "./api.ts";
import { sampling } from "./generate.ts";
import { endWithReader, Lines, printAnswer } from "./lines.ts";
import { addModelFlags, integer, number } from "./model_options.ts";
import type { ServedModelFlags } from "./served_model.ts";

interface ChatFlags extends ServedModelFlags {
  system?: string;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  seed?: number;
  marker?: string;
  contrast?: number;
  apiKey?: string;
}

interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

const help =
  "/reset forgets the conversation, /system TEXT sets the system prompt, /retry answers again, /exit ends";

export function register(program: Command): void {
  const command = program
    .command("chat")
    .description("talk to a model in the terminal")
    .argument("<model>", "folder, hub name, or URL of a running server")
    .option("--system <text>", "system prompt")
    .option("--max-tokens <n>", "longest answer in tokens", integer(1, 2 ** 24))
    .option("--temperature <t>", "0 is greedy (default: the model's)", number(0, 2))
    .option("--top-p <p>", "keep the most likely tokens up to this probability", number(0, 1))
    .option("--seed <n>", "same seed, same answer", integer(0, 2 ** 31 - 1))
    .option(
      "--marker <text>",
      "what asks for the answer in Koala's format: positive, negative or words of yours",
    )
    .option(
      "--contrast <strength>",
      "push the answer away from the negative marker's, 0 to 20",
      number(0, 20),
    )
    .option("--api-key <key>", "key for a server given by URL")
    .option("--chat-template <name>", "koala, chatml or a Jinja file instead of the model's own template");
  addModelFlags(command).action(run);
}

async function run(model: string, flags: ChatFlags): Promise<void> {
  const api = await openApi(model, flags);
  endWithReader();
  const lines = new Lines("> ");
  if (lines.interactive) console.log(`${api.modelId}: ${help}.`);
  try {
    await converse(new Conversation(api, flags, lines), lines);
  } finally {
    lines.close();
    await api.close();
  }
}

async function converse(conversation: Conversation, lines: Lines): Promise<void> {
  for (;;) {
    const line = (await lines.next())?.trim() ?? null;
    if (line === null && lines.interactive) console.log();
    if (line === null || line === "/exit") return;
    if (line === "/reset") conversation.reset();
    else if (line === "/retry") await conversation.retry();
    else if (line.startsWith("/system ")) conversation.setSystem(line.slice("/system ".length));
    else if (line.startsWith("/")) say(`${line} is not a command: ${help}.`);
    else if (line !== "") await conversation.say(line);
  }
}

/** To the person; stdout is for answers. */
function say(sentence: string): void {
  process.stderr.write(`koala: ${sentence}\n`);
}

/** Only what was asked for. */
function steering({ marker, contrast }: ChatFlags): Record<string, unknown> {
  return {
    ...(marker === undefined ? {} : { marker }),
    ...(contrast === undefined ? {} : { contrast: { strength: contrast } }),
  };
}

class Conversation {
  private messages: Message[] = [];

  constructor(
    private readonly api: Api,
    private readonly flags: ChatFlags,
    private readonly lines: Lines,
  ) {
    this.reset();
  }

  reset(): void {
    this.messages = this.flags.system ? [{ role: "system", content: this.flags.system }] : [];
  }

  setSystem(content: string): void {
    this.flags.system = content;
    this.messages = [
      { role: "system", content },
      ...this.messages.filter((message) => message.role !== "system"),
    ];
  }

  async say(content: string): Promise<void> {
    this.messages.push({ role: "user", content });
    await this.answer();
  }

  async retry(): Promise<void> {
    if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
    if (this.messages.at(-1)?.role === "user") await this.answer();
    else say("There is no answer to try again.");
  }

  /** The conversation goes on without a question that got no answer: templates want user and assistant in turn. */
  private async answer(): Promise<void> {
    let text = "";
    try {
      await this.lines.interruptible(async (signal) => {
        for await (const piece of this.pieces(signal)) {
          text += piece;
          printAnswer(piece);
        }
        if (text === "" && !signal.aborted) say("The model ended its answer at once.");
      });
    } catch (error) {
      if (!(error instanceof UsageError) || !this.lines.interactive) throw error;
      say(error.message);
    }
    if (text !== "") process.stdout.write("\n");
    if (text === "") this.messages.pop();
    else this.messages.push({ role: "assistant", content: text });
  }

  /** Ends where the signal stops it. */
  private async *pieces(signal: AbortSignal): AsyncGenerator<string> {
    const { api, flags, messages } = this;
    const body = { model: api.modelId, messages, stream: true, ...sampling(flags), ...steering(flags) };
    try {
      for await (const { choices } of api.post("/v1/chat/completions", body, signal))
        yield choices[0]?.delta?.content ?? "";
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
}
