/** OpenAI's preference format: `{"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}`. */
import { isObject } from "../../text/tokenizer_file.ts";
import { preferenceRecord, readMessages, readTools, RecordFault } from "../record.ts";
import type { Format } from "./format.ts";

export const openaiDpoFormat: Format = {
  name: "openai-dpo",
  keys: "input.messages, preferred_output and non_preferred_output",
  matches: (value) => isObject(value.input) && "preferred_output" in value,
  parse(value) {
    if (!isObject(value.input)) throw new RecordFault("input is missing");
    return preferenceRecord(
      readMessages(value.input.messages, "input.messages"),
      readMessages(value.preferred_output, "preferred_output"),
      readMessages(value.non_preferred_output, "non_preferred_output"),
      readTools(value.input.tools),
    );
  },
};
