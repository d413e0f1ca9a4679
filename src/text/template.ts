/** Renders a conversation to token segments: the model's own Jinja template, ours for Koala and ChatML, or a file.
 *  Always: special tokens come from the template alone. A special token's literal inside any message, tool or argument is
 *  marked with a private character before rendering and so becomes plain text, whatever the template does with it. */
import { basename, join } from "node:path";
import { RequestError, UsageError } from "../util/errors.ts";
import { escapeRegExp } from "./added_tokens.ts";
import {
  checkDepth,
  mapStrings,
  plainMessages,
  type ChatMessage,
  type PlainMessage,
} from "./chat_messages.ts";
import { compileTemplate, type CompiledTemplate } from "./jinja_sandbox.ts";
import { koalaSegments, koalaText, type KoalaOptions } from "./koala_template.ts";
import type { Segment } from "./segments.ts";
import { readJsonObject, isObject, type Json, type JsonObject } from "./tokenizer_file.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { detectToolFormat, explainTools, type Tool, type ToolFormat } from "./tool_formats.ts";

export interface RenderOptions {
  tools?: readonly Tool[];
  /** Ask for an answer at the end (default true). */
  addGenerationPrompt?: boolean;
  /** The last message goes on instead: nothing closes it. */
  continueFinalMessage?: boolean;
  /** What strftime_now says (default: now). */
  date?: Date;
  /** The request's chat_template_kwargs: names outside `templateArguments` are refused. */
  templateArguments?: JsonObject;
  /** What asks for the answer, in place of the template's own: "positive", "negative" or words. Koala's format only. */
  marker?: string;
}

export interface ChatTemplate {
  readonly name: string;
  /** The Jinja source; null for the Koala format. */
  readonly source: string | null;
  /** How this template's model writes tool calls. */
  readonly toolFormat: ToolFormat;
  /** Ids that end an answer, the tokenizer's end-of-sequence ids included. */
  readonly stopIds: readonly number[];
  /** Texts that end an answer where no token does. */
  readonly stopStrings: readonly string[];
  /** An answer is a text of its own: stream it without the prompt, so that it has no leading space. */
  readonly freshAnswer: boolean;
  render(messages: readonly ChatMessage[], options?: RenderOptions): Segment[];
  /** The prompt as text, for reading. */
  renderText(messages: readonly ChatMessage[], options?: RenderOptions): string;
}

/** What a request may hand to a template; everything else in chat_template_kwargs is refused. */
export const templateArguments: readonly string[] = [
  "enable_thinking",
  "thinking",
  "thinking_budget",
  "preserve_thinking",
  "reasoning_effort",
  "custom_instructions",
  "date_string",
  "documents",
  "builtin_tools",
  "tools_in_user_message",
  "xml_tools",
  "python_tools",
  "model_identity",
];

/** The model's own template: chat_template.jinja (with additional_chat_templates/tool_use.jinja), else chat_template of
 *  tokenizer_config.json; null when it has none. */
export async function loadTemplate(directory: string, tokenizer: Tokenizer): Promise<ChatTemplate | null> {
  const file = Bun.file(join(directory, "chat_template.jinja"));
  if (await file.exists()) {
    const toolUse = Bun.file(join(directory, "additional_chat_templates", "tool_use.jinja"));
    const sources: Sources = { main: await file.text() };
    if (await toolUse.exists()) sources.toolUse = await toolUse.text();
    return new JinjaTemplate(basename(directory), tokenizer, sources);
  }
  const config = await readJsonObject(join(directory, "tokenizer_config.json"));
  const sources = templateSources(config?.chat_template ?? null, directory);
  return sources && new JinjaTemplate(basename(directory), tokenizer, sources);
}

/** `--chat-template`: koala, koala-negative, chatml, or the path of a Jinja file. `koala`: what Koala's format was trained with. */
export async function namedTemplate(
  name: string,
  tokenizer: Tokenizer,
  koala: KoalaOptions = {},
): Promise<ChatTemplate> {
  const builtin = builtinTemplate(name, tokenizer, koala);
  if (builtin) return builtin;
  const file = Bun.file(name);
  if (!(await file.exists())) {
    throw new UsageError(
      `--chat-template ${name} is neither ${builtinTemplates.join(", ")} nor a file. Name one of these or a Jinja file.`,
    );
  }
  return new JinjaTemplate(name, tokenizer, { main: await file.text() });
}

export const builtinTemplates: readonly string[] = ["koala", "koala-negative", "chatml"];

/** null for a name that is not built in. */
export function builtinTemplate(
  name: string,
  tokenizer: Tokenizer,
  koala: KoalaOptions = {},
): ChatTemplate | null {
  if (name === "koala") return new KoalaTemplate(name, tokenizer, koala);
  if (name === "koala-negative") return new KoalaTemplate(name, tokenizer, { ...koala, marker: "negative" });
  if (name === "chatml") return new JinjaTemplate(name, tokenizer, { main: chatml });
  return null;
}

const chatml = `{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

/** Ends of a turn that models write although their end-of-sequence token is another. */
const turnEnds = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>"];

interface Sources {
  main: string;
  toolUse?: string;
}

function templateSources(value: Json, directory: string): Sources | null {
  if (value === null) return null;
  if (typeof value === "string") return { main: value };
  const named = new Map<string, string>();
  for (const entry of Array.isArray(value) ? value : []) {
    if (isObject(entry) && typeof entry.name === "string" && typeof entry.template === "string")
      named.set(entry.name, entry.template);
  }
  const toolUse = named.get("tool_use");
  const main = named.get("default") ?? toolUse;
  if (main === undefined) {
    throw new UsageError(
      `The chat_template in ${directory}/tokenizer_config.json is neither text nor a list with a template named "default".`,
    );
  }
  return toolUse === undefined ? { main } : { main, toolUse };
}

class JinjaTemplate implements ChatTemplate {
  readonly source: string;
  readonly toolFormat: ToolFormat;
  readonly stopIds: readonly number[];
  readonly stopStrings: readonly string[];
  readonly freshAnswer = false;
  private readonly main: CompiledTemplate;
  private readonly toolUse: CompiledTemplate;
  private readonly marking: RegExp | null;

  constructor(
    readonly name: string,
    private readonly tokenizer: Tokenizer,
    sources: Sources,
  ) {
    this.source = sources.main;
    this.main = compileTemplate(sources.main, name);
    this.toolUse = sources.toolUse === undefined ? this.main : compileTemplate(sources.toolUse, name);
    this.toolFormat = detectToolFormat(sources.toolUse ?? sources.main);
    const ends = turnEnds.filter((end) => sources.main.includes(end));
    this.stopIds = [
      ...new Set([...tokenizer.eosIds, ...ends.flatMap((end) => tokenizer.tokenId(end) ?? [])]),
    ];
    this.stopStrings = ends.filter((end) => tokenizer.tokenId(end) === null);
    this.marking = markingPattern(tokenizer.specialLiterals);
  }

  render(messages: readonly ChatMessage[], options: RenderOptions = {}): Segment[] {
    const { text, sentinel } = this.rendered(messages, options);
    const ids = this.tokenizer.encode(text, { addSpecialTokens: false, parseSpecial: true, sentinel });
    return [{ ids, loss: 0, source: "template", turn: -1 }];
  }

  renderText(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const { text, sentinel } = this.rendered(messages, options);
    return text.replaceAll(sentinel, "");
  }

  private rendered(
    messages: readonly ChatMessage[],
    options: RenderOptions,
  ): { text: string; sentinel: string } {
    const { tools = [], continueFinalMessage = false, templateArguments: extra = {}, date } = options;
    checkOptions(options);
    this.refuseMarker(options.marker);
    const plain = explainTools(this.toolFormat, plainMessages(messages), tools);
    const native = tools.length > 0 && this.toolFormat !== "generic";
    const input: JsonObject = {
      extra,
      messages: plain.map(withoutIds),
      tools: native ? (tools as unknown as Json) : null,
    };
    const [sentinel, cut] = unusedCharacters(JSON.stringify(input) + this.main.source + this.toolUse.source);
    const marked = this.marked(input, sentinel) as { messages: JsonObject[]; tools: Json; extra: JsonObject };
    if (continueFinalMessage) marked.messages.at(-1)!.content += cut;
    const compiled = native ? this.toolUse : this.main;
    const text = compiled
      .render(this.variables(marked, options), date ? { now: date } : {})
      .replaceAll(escapeOf(sentinel), "");
    return { text: continueFinalMessage ? cutAt(text, cut) : text, sentinel };
  }

  /** As transformers names them. */
  private variables(
    { messages, tools, extra }: { messages: JsonObject[]; tools: Json; extra: JsonObject },
    { addGenerationPrompt = true, continueFinalMessage = false }: RenderOptions,
  ): JsonObject {
    return {
      documents: null,
      ...extra,
      messages,
      tools,
      add_generation_prompt: addGenerationPrompt && !continueFinalMessage,
      ...this.specials(),
    };
  }

  private refuseMarker(marker: string | undefined): void {
    if (marker === undefined) return;
    throw new RequestError(
      `The chat template ${this.name} has no markers for good and bad answers; leave marker and contrast out, or serve the model with --chat-template koala.`,
      { param: "marker", code: "invalid_value" },
    );
  }

  private marked(value: Json, sentinel: string): Json {
    const { marking } = this;
    return marking ? mapStrings(value, (text) => text.replace(marking, sentinel)) : value;
  }

  private specials(): { [name: string]: string } {
    const entries = Object.entries(this.tokenizer.specialTokens).filter(
      (entry): entry is [string, string] => entry[1] !== null,
    );
    return Object.fromEntries(entries.map(([name, token]) => [`${name}_token`, token]));
  }
}

class KoalaTemplate implements ChatTemplate {
  readonly source = null;
  readonly toolFormat = "generic";
  readonly stopIds: readonly number[];
  readonly stopStrings: readonly string[] = [];
  readonly freshAnswer = true;

  constructor(
    readonly name: string,
    private readonly tokenizer: Tokenizer,
    private readonly koala: KoalaOptions,
  ) {
    this.stopIds = tokenizer.eosIds;
  }

  render(messages: readonly ChatMessage[], options: RenderOptions = {}): Segment[] {
    return koalaSegments(this.tokenizer, this.explained(messages, options), this.merged(options));
  }

  renderText(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const { bos, eos } = this.tokenizer.specialTokens;
    return koalaText(this.explained(messages, options), { ...this.merged(options), bosText: bos, eos });
  }

  private explained(
    messages: readonly ChatMessage[],
    { tools = [], templateArguments: extra = {} }: RenderOptions,
  ): ChatMessage[] {
    checkArguments(extra);
    return explainTools("generic", plainMessages(messages), tools);
  }

  private merged(options: RenderOptions): KoalaOptions {
    const { addGenerationPrompt = true, continueFinalMessage = false, marker = this.koala.marker } = options;
    return { ...this.koala, addGenerationPrompt, continueFinalMessage, ...(marker ? { marker } : {}) };
  }
}

function checkOptions(options: RenderOptions): void {
  const { tools = [], templateArguments: extra = {} } = options;
  if (options.continueFinalMessage && options.addGenerationPrompt) {
    throw new RequestError(
      "continue_final_message and add_generation_prompt exclude each other; send one of them.",
      { param: "add_generation_prompt" },
    );
  }
  checkArguments(extra);
  checkDepth([tools as unknown as Json, extra], "tools");
}

function checkArguments(extra: JsonObject): void {
  const unknown = Object.keys(extra).find((name) => !templateArguments.includes(name));
  if (unknown === undefined) return;
  throw new RequestError(
    `chat_template_kwargs.${unknown} is not one that a request may set; known are ${templateArguments.join(", ")}.`,
    {
      param: `chat_template_kwargs.${unknown}`,
    },
  );
}

function withoutIds({ ids: _ids, ...message }: PlainMessage): JsonObject {
  return message as unknown as JsonObject;
}

/** Places inside special literals, right behind their first character. A literal of one character has no inside: it is left
 *  as it is. */
function markingPattern(literals: readonly string[]): RegExp | null {
  const places = literals.flatMap((literal) => {
    const [first, ...rest] = literal;
    return rest.length > 0 ? [`(?<=${escapeRegExp(first!)})(?=${escapeRegExp(rest.join(""))})`] : [];
  });
  return places.length > 0 ? new RegExp(places.join("|"), "gu") : null;
}

/** Two private-use characters that the text does not have. */
function unusedCharacters(text: string): [string, string] {
  const used = new Set(text.match(/[\ue000-\uf8ff]/g));
  const free: string[] = [];
  for (let code = 0xe000; code <= 0xf8ff && free.length < 2; code++) {
    const character = String.fromCharCode(code);
    if (!used.has(character)) free.push(character);
  }
  if (free.length < 2)
    throw new RequestError(
      "The messages use every private-use character of Unicode; two must be left free.",
      { param: "messages" },
    );
  return free as [string, string];
}

/** As tojson with ensure_ascii writes it. */
const escapeOf = (character: string): string => `\\u${character.charCodeAt(0).toString(16)}`;

function cutAt(text: string, cut: string): string {
  const at = text.lastIndexOf(cut);
  if (at >= 0) return text.slice(0, at);
  throw new RequestError(
    "continue_final_message does not work with this chat template: it changes or leaves out the last message.",
    {
      param: "continue_final_message",
    },
  );
}
