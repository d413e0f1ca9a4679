/** What constrained decoding must match so that the parser of the same format reads calls of the wanted tools, nothing else. */
import type { Json, JsonObject } from "./tokenizer_file.ts";
import type { Tool, ToolFormat } from "./tool_formats.ts";

/** The same plain shape as the engine's: text knows no engine. */
export type GrammarSpec =
  | { kind: "json_object" }
  | { kind: "json_schema"; schema: Json }
  | { kind: "literal"; text: string }
  | { kind: "regex"; pattern: string }
  | { kind: "sequence"; parts: GrammarSpec[] }
  | { kind: "choice"; options: GrammarSpec[] }
  | { kind: "repeat"; part: GrammarSpec; min: number; max: number | null; separator: string };

/** More calls than this in one answer help nobody; without a bound a model could call for ever. */
const callsMax = 16;

/** null: no tool fits the choice. */
export function toolGrammar(
  format: ToolFormat,
  tools: readonly Tool[],
  choice: "required" | { name: string },
  parallel: boolean,
): GrammarSpec | null {
  const wanted = choice === "required" ? tools : tools.filter((tool) => tool.function.name === choice.name);
  if (wanted.length === 0) return null;
  const max = parallel && choice === "required" ? callsMax : 1;
  const calls = wanted.map((tool) => callGrammar(format, tool));
  const call: GrammarSpec = calls.length === 1 ? calls[0]! : { kind: "choice", options: calls };
  const list: GrammarSpec = { kind: "repeat", part: call, min: 1, max, separator: separators[format] };
  return format === "mistral"
    ? { kind: "sequence", parts: [literal("[TOOL_CALLS]["), list, literal("]")] }
    : list;
}

const separators: { [format in ToolFormat]: string } = {
  hermes: "\n",
  generic: "\n",
  llama3: "; ",
  mistral: ", ",
};
const literal = (text: string): GrammarSpec => ({ kind: "literal", text });
const noArguments: JsonObject = { type: "object", properties: {}, additionalProperties: false };

function callGrammar(format: ToolFormat, tool: Tool): GrammarSpec {
  const key = format === "llama3" ? "parameters" : "arguments";
  const tagged = format === "hermes" || format === "generic";
  const head = `{"name": ${JSON.stringify(tool.function.name)}, "${key}": `;
  const schema: GrammarSpec = { kind: "json_schema", schema: tool.function.parameters ?? noArguments };
  return {
    kind: "sequence",
    parts: [
      literal(tagged ? `<tool_call>\n${head}` : head),
      schema,
      literal(tagged ? "}\n</tool_call>" : "}"),
    ],
  };
}
