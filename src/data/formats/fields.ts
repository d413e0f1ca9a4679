/** EasyLM's fields, the format of Koala's own data: a specification says how a record's texts become tokens.
 *    a,b      fields, each tokenised alone, joined as tokens
 *    a+b      subfields joined as text by one space, tokenised once
 *    [x]      no loss on this field (around any of these)
 *    <|bos|> <|eos|> <|123|>   one token
 *    {x}      base64 of raw token ids, little-endian int32
 *  Source: EasyLM/data.py, TextProcessor. Not repeated from there: a second EOS after a specification that ends with one. */
import { type JsonObject } from "../../text/tokenizer_file.ts";
import { readText, RecordFault, type FieldPart } from "../record.ts";
import type { Format, FormatOptions } from "./format.ts";

export const fieldsFormat: Format = {
  name: "fields",
  keys: "fields",
  matches: (value, options) => typeof value.fields === "string" || options.fields !== undefined,
  parse(value, options) {
    const specification = options.fields ?? readText(value, "fields");
    if (specification.trim() === "") throw new RecordFault("fields is empty");
    const parts = specification.split(",").map((field, i) => readField(value, field.trim(), i, options));
    const last = parts.at(-1)!;
    if (!(last.kind === "token" && last.token === "eos"))
      parts.push({ kind: "token", token: "eos", loss: 1 });
    return { record: { kind: "fields", parts }, repairs: [] };
  },
};

function readField(record: JsonObject, field: string, index: number, options: FormatOptions): FieldPart {
  const masked = field.startsWith("[") && field.endsWith("]");
  const inner = masked ? field.slice(1, -1) : field;
  const loss = masked ? 0 : 1;
  if (inner.startsWith("<|") && inner.endsWith("|>"))
    return { kind: "token", token: readToken(inner.slice(2, -2)), loss };
  if (inner.startsWith("{") && inner.endsWith("}"))
    return { kind: "ids", ids: rawIds(readText(record, inner.slice(1, -1))), loss };
  const text = inner
    .split("+")
    .map((key) => readText(record, key))
    .join(options.subfieldSeparator ?? " ");
  const prepended = index === 0 ? (options.prependText ?? "BEGINNING OF CONVERSATION: ") : "";
  return { kind: "text", text: prepended + text, loss };
}

function readToken(name: string): "bos" | "eos" | number {
  if (name === "bos" || name === "eos") return name;
  if (/^\d{1,9}$/.test(name)) return Number(name);
  throw new RecordFault("fields names a token that is neither bos, eos nor a number");
}

function rawIds(base64: string): number[] {
  if (!/^[A-Za-z0-9+/\s]*={0,2}\s*$/.test(base64)) throw new RecordFault("a field in braces is not base64");
  const bytes = Buffer.from(base64, "base64");
  if (bytes.length % 4 !== 0) throw new RecordFault("a field in braces is not whole int32 values");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getInt32(4 * i, true));
}
