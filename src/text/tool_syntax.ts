/** Where tool calls begin and end in a text that is still coming, for each format. */
import type { ToolFormat } from "./tool_formats.ts";

export interface Syntax {
  /** Where a call's marker begins and, when all of it is there, ends; null when no part of a marker is there. */
  open(text: string, atStart: boolean): { start: number; end: number | null } | null;
  /** What follows a call. "wait": nothing yet but blanks and what may be the beginning of a tag. */
  next(text: string): "wait" | { skip: number; after: "call" | "content" };
}

/** The marker, or the beginning of one at the text's end. */
function findMarker(text: string, marker: string): { start: number; end: number | null } | null {
  const at = text.indexOf(marker);
  if (at >= 0) return { start: at, end: at + marker.length };
  for (let length = Math.min(marker.length - 1, text.length); length > 0; length--) {
    if (marker.startsWith(text.slice(text.length - length)))
      return { start: text.length - length, end: null };
  }
  return null;
}

const hermes: Syntax = {
  open: (text) => findMarker(text, "<tool_call>"),
  next: (text) => {
    const [between, close = ""] = /^\s*(<\/tool_call>)?\s*/.exec(text)!;
    const rest = text.slice(between.length);
    if (rest.startsWith("<tool_call>")) return { skip: between.length + "<tool_call>".length, after: "call" };
    const open = "<tool_call>".startsWith(rest) || (close === "" && "</tool_call>".startsWith(rest));
    if (open) return "wait";
    return { skip: close === "" ? 0 : text.indexOf(close) + close.length, after: "content" };
  },
};

const llama3: Syntax = {
  open: (text, atStart) => {
    if (!atStart) return null;
    const blank = text.length - text.trimStart().length;
    const rest = text.slice(blank);
    const tag = "<|python_tag|>";
    if (rest === "" || (tag.startsWith(rest) && rest !== tag)) return { start: 0, end: null };
    if (rest.startsWith(tag)) return { start: 0, end: blank + tag.length };
    return rest.startsWith("{") ? { start: 0, end: blank } : null;
  },
  next: (text) => {
    const separator = /^[\s;,]*(?:<\|python_tag\|>)?\s*/.exec(text)![0].length;
    if ("<|python_tag|>".startsWith(text.slice(separator))) return "wait";
    return text[separator] === "{" ? { skip: separator, after: "call" } : { skip: 0, after: "content" };
  },
};

const mistral: Syntax = {
  open: (text) => {
    const found = findMarker(text, "[TOOL_CALLS]");
    if (!found || found.end === null) return found;
    const list = /^\s*\[?/.exec(text.slice(found.end))![0];
    // The list's bracket comes next: without it the marker alone opens nothing yet.
    if (found.end + list.length === text.length && !list.endsWith("["))
      return { start: found.start, end: null };
    return { start: found.start, end: found.end + list.length };
  },
  next: (text) => {
    const match = /^\s*([,\]])?/.exec(text)!;
    if (match[1] === undefined)
      return match[0].length === text.length ? "wait" : { skip: 0, after: "content" };
    return match[1] === ","
      ? { skip: match[0].length, after: "call" }
      : { skip: match[0].length, after: "content" };
  },
};

export const syntaxes: { [format in ToolFormat]: Syntax } = { hermes, generic: hermes, llama3, mistral };
