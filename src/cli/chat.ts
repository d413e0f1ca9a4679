/** `koala chat MODEL`: a conversation in the terminal. Ctrl-C stops an answer, Ctrl-D ends the chat. */
import { createInterface, type Interface } from "node:readline/promises";
import type { Command } from "commander";
import { UsageError } from "../util/errors.ts";
import { type Api, openApi } from "./api.ts";
import { sampling } from "./generate.ts";
import { addModelFlags, integer, number } from "./model_options.ts";
import type { ServedModelFlags } from "./served_model.ts";

interface ChatFlags extends ServedModelFlags {
  system?: string;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  seed?: number;
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
    .option("--api-key <key>", "key for a server given by URL")
    .option("--chat-template <name>", "koala, chatml or a Jinja file instead of the model's own template");
  addModelFlags(command).action(run);
}

async function run(model: string, flags: ChatFlags): Promise<void> {
  const api = await openApi(model, flags);
  const terminal = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: process.stdin.isTTY,
  });
  console.log(`${api.modelId}: ${help}.`);
  try {
    await converse(new Conversation(api, flags), terminal);
  } finally {
    terminal.close();
    await api.close();
  }
}

async function converse(conversation: Conversation, terminal: Interface): Promise<void> {
  for (;;) {
    const line = await ask(terminal);
    if (line === null || line === "/exit") return;
    if (line === "/reset") conversation.reset();
    else if (line === "/retry") await conversation.retry(terminal);
    else if (line.startsWith("/system ")) conversation.setSystem(line.slice("/system ".length));
    else if (line.startsWith("/")) console.log(`${line} is not a command: ${help}.`);
    else if (line !== "") await conversation.say(line, terminal);
  }
}

/** null at the end of input. */
async function ask(terminal: Interface): Promise<string | null> {
  const closed = new Promise<null>((done) => terminal.once("close", () => done(null)));
  const line = await Promise.race([terminal.question("> "), closed]).catch(() => null);
  return line === null ? null : line.trim();
}

class Conversation {
  private messages: Message[] = [];

  constructor(
    private readonly api: Api,
    private readonly flags: ChatFlags,
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

  async say(content: string, terminal: Interface): Promise<void> {
    this.messages.push({ role: "user", content });
    await this.answer(terminal);
  }

  async retry(terminal: Interface): Promise<void> {
    if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
    if (this.messages.at(-1)?.role === "user") await this.answer(terminal);
    else console.log("There is no answer to try again.");
  }

  private async answer(terminal: Interface): Promise<void> {
    const stop = new AbortController();
    const interrupt = () => stop.abort();
    terminal.once("SIGINT", interrupt);
    let text = "";
    try {
      const body = {
        model: this.api.modelId,
        messages: this.messages,
        stream: true,
        ...sampling(this.flags),
      };
      for await (const { choices } of this.api.post("/v1/chat/completions", body, stop.signal)) {
        const piece = choices[0]?.delta?.content ?? "";
        text += piece;
        process.stdout.write(piece);
      }
    } catch (error) {
      if (!stop.signal.aborted) this.fail(error);
    } finally {
      terminal.off("SIGINT", interrupt);
    }
    process.stdout.write("\n");
    if (text !== "") this.messages.push({ role: "assistant", content: text });
  }

  /** The conversation goes on without the message that the server refused. */
  private fail(error: unknown): void {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`koala: ${error.message}\n`);
    this.messages.pop();
  }
}
