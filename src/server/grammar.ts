/** What an answer must match, from response_format and tools; refused here, with the field's name, where the engine could not. */

import { GrammarError, validateGrammar } from "../engine/grammar.ts";
import type { GrammarSpec, JsonValue } from "../engine/messages.ts";
import type { ToolFormat } from "../text/tool_calls.ts";
import type { Tool } from "../text/tool_calls.ts";
import { toolGrammar } from "../text/tool_grammar.ts";
import { RequestError } from "../util/errors.ts";
import type { z } from "zod";
import type { responseFormatSchema } from "./schema/common.ts";
import type { ToolChoice } from "./schema/chat.ts";

type ResponseFormat = z.infer<typeof responseFormatSchema>;

/** null: anything goes. */
export function responseGrammar(format: ResponseFormat | null | undefined): GrammarSpec | null {
  if (!format || format.type === "text") return null;
  if (format.type === "json_object") return { kind: "json_object" };
  return checked({ kind: "json_schema", schema: format.json_schema.schema as JsonValue }, "response_format");
}

/** With `auto` and a response format, either a call or the format; with `auto` alone, anything. */
export function chatGrammar(of: {
  format: ResponseFormat | null | undefined;
  toolFormat: ToolFormat;
  tools: readonly Tool[];
  choice: ToolChoice;
  parallel: boolean;
}): GrammarSpec | null {
  const { tools, choice, parallel, toolFormat } = of;
  const response = responseGrammar(of.format);
  if (tools.length === 0 || choice === "none") return response;
  if (choice === "auto") {
    const call = response === null ? null : toolGrammar(toolFormat, tools, "required", parallel);
    return call === null ? response : checked({ kind: "choice", options: [call, response!] }, "tools");
  }
  const calls = toolGrammar(
    toolFormat,
    tools,
    choice === "required" ? "required" : { name: choice.function.name },
    parallel,
  );
  if (calls === null)
    throw new RequestError("tool_choice names a function that is not among tools.", {
      param: "tool_choice",
      code: "invalid_value",
    });
  return checked(calls, "tools");
}

function checked(spec: GrammarSpec, param: string): GrammarSpec {
  try {
    validateGrammar(spec);
    return spec;
  } catch (error) {
    if (error instanceof GrammarError)
      throw new RequestError(error.message, { param, code: "invalid_schema" });
    throw error;
  }
}
