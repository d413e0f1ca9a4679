/** Alpaca's `{instruction, input, output}`, with LLaMA-Factory's `system` and `history`. Koala joined instruction and input by
 *  a space, which loses the boundary before code and lists: an empty line is the default, the space stays for compatibility. */
import { alpacaFormat, alpacaRecord } from "../formats/alpaca.ts";
import type { ChatRecord } from "../record.ts";
import type { Source } from "./source.ts";

export const alpacaSource: Source = {
  name: "alpaca",
  about: "Instructions in Alpaca's shape, each with one answer.",
  keys: alpacaFormat.keys,
  licence: "CC-BY-NC-4.0",
  options: {
    joiner: {
      about: "Between instruction and input; Koala's pipeline had one space.",
      type: "string",
      default: "\n\n",
    },
  },
  matches: (value) => alpacaFormat.matches(value, {}),
  parse(value, { joiner }) {
    const { record, repairs } = alpacaRecord(value, typeof joiner === "string" ? joiner : "\n\n");
    return [{ record: record as ChatRecord, repairs }];
  },
};
