/** The ways in which models are taught to call tools, told from their template; and the instruction of ours where a template
 *  teaches none. */
import type { PlainMessage } from "./chat_messages.ts";
import type { JsonObject } from "./tokenizer_file.ts";

/** hermes: `<tool_call>{"name":…,"arguments":…}</tool_call>`; llama3: `{"name":…,"parameters":…}` as the whole answer;
 *  mistral: `[TOOL_CALLS][{"name":…,"arguments":…}]`; generic: Hermes' way, taught by an instruction of ours. */
export type ToolFormat = "hermes" | "llama3" | "mistral" | "generic";

export interface Tool {
  type: "function";
  function: { name: string; description?: string; parameters?: JsonObject; strict?: boolean | null };
}

export function detectToolFormat(source: string): ToolFormat {
  if (source.includes("[TOOL_CALLS]")) return "mistral";
  // Qwen3-Coder and others put XML inside <tool_call>: not this format.
  if (source.includes("<tool_call>") && !source.includes("<function=")) return "hermes";
  if (source.includes("<|python_tag|>") || (source.includes("ipython") && source.includes('"parameters"')))
    return "llama3";
  return "generic";
}

/** Special tokens that must show in the text for the parser to see them. */
export const toolTokens: readonly string[] = [
  "<tool_call>",
  "</tool_call>",
  "[TOOL_CALLS]",
  "<|python_tag|>",
];

/** For templates that know no tools: an instruction in the system message, calls and results as text. Others: unchanged. */
export function explainTools(
  format: ToolFormat,
  messages: readonly PlainMessage[],
  tools: readonly Tool[],
): PlainMessage[] {
  if (format === "mistral") return messages.map(withShortIds);
  if (format !== "generic") return [...messages];
  const plain: PlainMessage[] = [];
  for (const message of messages) {
    const { tool_calls: calls, tool_call_id: _id, ...rest } = message;
    if (message.role === "tool") {
      const text = `<tool_response>\n${message.content}\n</tool_response>`;
      const last = plain.at(-1);
      if (last?.role === "user" && last.content.endsWith("</tool_response>")) last.content += `\n${text}`;
      else plain.push({ role: "user", content: text });
    } else if (calls) {
      const texts = calls.map(
        ({ function: { name, arguments: args } }) =>
          `<tool_call>\n${JSON.stringify({ name, arguments: args })}\n</tool_call>`,
      );
      plain.push({ ...rest, content: [message.content, ...texts].filter((text) => text !== "").join("\n") });
    } else plain.push({ ...rest });
  }
  if (tools.length === 0) return plain;
  const system = plain.find((message) => message.role === "system");
  if (system) system.content += `\n\n${toolInstruction(tools)}`;
  else plain.unshift({ role: "system", content: toolInstruction(tools) });
  return plain;
}

/** Mistral's templates refuse ids that are not nine letters or digits. */
function withShortIds(message: PlainMessage): PlainMessage {
  const short = (id: string): string =>
    id
      .replace(/[^A-Za-z0-9]/g, "")
      .slice(-9)
      .padStart(9, "0");
  const { tool_calls: calls, tool_call_id: id } = message;
  return {
    ...message,
    ...(id === undefined ? {} : { tool_call_id: short(id) }),
    ...(calls === undefined
      ? {}
      : {
          tool_calls: calls.map((call) => (call.id === undefined ? call : { ...call, id: short(call.id) })),
        }),
  };
}

function toolInstruction(tools: readonly Tool[]): string {
  return [
    "You may call one or more functions to help with the user's request. These are their signatures, one JSON object a line:",
    "<tools>",
    ...tools.map((tool) => JSON.stringify(tool)),
    "</tools>",
    'To call a function, write its name and arguments as JSON between these tags: <tool_call>\n{"name": "the name", "arguments": {}}\n</tool_call>',
  ].join("\n");
}
