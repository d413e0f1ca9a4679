/** A GrammarSpec as a piece of grammar, after its size is known to be within limits. */
import type { GrammarSpec } from "../messages.ts";
import { GrammarError, limits } from "./errors.ts";
import { schemaPattern } from "./json_schema.ts";
import { anyObject } from "./json_text.ts";
import { choice, nothing, optional, repeat, rule, sequence, text } from "./patterns.ts";
import type { Pattern } from "./program.ts";
import { regexPattern, wholeMatch } from "./regex.ts";
import { utf8 } from "./unicode.ts";

export function specPattern(spec: GrammarSpec): Pattern {
  switch (spec.kind) {
    case "json_object":
      return anyObject;
    case "json_schema":
      return schemaPattern(spec.schema);
    case "literal":
      return literal(spec.text);
    case "regex":
      return regexPattern(wholeMatch(spec.pattern), utf8);
    case "sequence":
      return sequence(...spec.parts.map(specPattern));
    case "choice":
      return choice(...spec.options.map(specPattern));
    case "repeat":
      return repeated(spec);
    default:
      spec satisfies never;
      throw new GrammarError(
        `The output format has the unknown kind ${JSON.stringify((spec as { kind: unknown }).kind)}.`,
      );
  }
}

function repeated(spec: Extract<GrammarSpec, { kind: "repeat" }>): Pattern {
  const { min, separator } = spec;
  const max = spec.max ?? Infinity;
  if (!Number.isInteger(min) || min < 0 || max < min || (max !== Infinity && !Number.isInteger(max))) {
    throw new GrammarError(
      `The output format repeats a part ${min} to ${spec.max} times; use integers with 0 <= min <= max.`,
    );
  }
  if (max === 0) return nothing;
  const inner = specPattern(spec.part);
  const part = rule({}, () => inner);
  const all = sequence(part, repeat(sequence(literal(separator), part), Math.max(0, min - 1), max - 1));
  return min === 0 ? optional(all) : all;
}

function literal(value: string): Pattern {
  if (!value.isWellFormed())
    throw new GrammarError("The output format has a text with half of a surrogate pair; correct it.");
  return text(value);
}

/** Without recursion, and stops at the first excess: a hostile spec costs no more than a large one. */
export function checkSize(spec: GrammarSpec): void {
  const work: { value: unknown; depth: number }[] = [{ value: spec, depth: 0 }];
  let nodes = 0;
  let bytes = 0;
  for (let item = work.pop(); item !== undefined; item = work.pop()) {
    const { value, depth } = item;
    nodes++;
    bytes += typeof value === "string" ? value.length : 4;
    if (depth > limits.specDepth)
      throw new GrammarError(`The output format is nested more than ${limits.specDepth} deep; flatten it.`);
    if (typeof value === "object" && value !== null) {
      for (const key in value) {
        bytes += Array.isArray(value) ? 1 : key.length + 3;
        work.push({ value: (value as Record<string, unknown>)[key], depth: depth + 1 });
        if (nodes + work.length > limits.specNodes) break;
      }
    }
    if (nodes + work.length > limits.specNodes || bytes > limits.specBytes) {
      throw new GrammarError(
        `The output format is too large; at most ${limits.specBytes} bytes and ${limits.specNodes} values are allowed.`,
      );
    }
  }
}
