/** What a source is: the parser of one family of raw files, and the registry of all of them. */
import type { JsonObject } from "../../text/tokenizer_file.ts";
import type { Dialogue } from "../dialogue.ts";

/** One dialogue of a raw record, before the reader adds id, file and line. */
export interface SourceItem {
  record: Dialogue["record"];
  marker?: Dialogue["marker"];
  tags?: { [name: string]: string };
  licence?: string | null;
  /** What was mended; none means the verdict "ok". */
  repairs?: string[];
}

export interface Source {
  readonly name: string;
  /** One sentence: what it is, for tables and help. */
  readonly about: string;
  /** What a raw record needs, for messages. */
  readonly keys: string;
  /** Of the data as it is published; items may know better. */
  readonly licence: string | null;
  /** The settings that `parse` reads, for tables and for refusing others. */
  readonly options?: { readonly [name: string]: SourceOption };
  matches(value: JsonObject): boolean;
  /** One raw record to its dialogues. Throws a RecordFault for a record that must be dropped as a whole. A raw record that is
   *  a list comes as `{list: [...]}`; `file` is the base name of the raw file. */
  parse(value: JsonObject, options: SourceOptions, file?: string): SourceItem[];
}

/** A setting; `choices` where only some texts are allowed. No default means: none unless it is given. */
export interface SourceOption {
  about: string;
  type: "string" | "number" | "boolean";
  default?: string | number | boolean;
  choices?: readonly string[];
}

/** Settings of a source in a recipe; each parser reads its own and the recipe refuses unknown ones. */
export interface SourceOptions {
  [name: string]: string | number | boolean | string[] | undefined;
}
