/** Objects and arrays of a JSON schema as pieces of grammar. */
import type { JsonValue } from "../messages.ts";
import { GrammarError } from "./errors.ts";
import { colon, comma, escaped, gap, stringExcept } from "./json_text.ts";
import { never, repeat, rule, sequence, text } from "./patterns.ts";
import type { Pattern, ProgramBuilder } from "./program.ts";
import {
  type Schema,
  type SchemaObject,
  asSchema,
  asSchemas,
  countOf,
  propertiesOf,
} from "./schema_reading.ts";

interface Member {
  name: string;
  value: Pattern;
  required: boolean;
}

/** Named properties in the schema's order, each once, then additional ones. */
export function objectPattern(schema: SchemaObject, compile: (schema: Schema) => Pattern): Pattern {
  const properties = propertiesOf(schema);
  const additional = asSchema(schema.additionalProperties ?? true, '"additionalProperties"');
  const required = requiredNames(schema.required ?? []);
  for (const name of required) if (!properties.has(name)) properties.set(name, additional);
  const members = [...properties].map(([name, property]): Member => {
    const value = compile(asSchema(property, `property ${JSON.stringify(name)}`));
    return { name, value, required: required.has(name) };
  });
  if (additional === false) return objectOf(members, null);
  const key = stringExcept([...properties.keys()]);
  return objectOf(members, sequence(key, colon, compile(additional)));
}

/** Two chains of states, "nothing before" and "something before": only the second puts commas. They share each member. */
function objectOf(members: Member[], additional: Pattern | null): Pattern {
  return (build, next) => {
    const close = sequence(gap, text("}"))(build, next);
    let later = close;
    let first = text("}")(build, next);
    if (additional !== null) {
      later = build.loop(close);
      const member = additional(build, later);
      build.close(later, comma(build, member));
      first = build.split(member, first);
    }
    for (const { name, value, required } of members.toReversed()) {
      const member = sequence(text(`"${escaped(name)}"`), colon, value)(build, later);
      first = required ? member : build.split(member, first);
      const separated = comma(build, member);
      later = required ? separated : build.split(separated, later);
    }
    return sequence(text("{"), gap)(build, first);
  };
}

function requiredNames(value: JsonValue): Set<string> {
  if (Array.isArray(value) && value.every((name) => typeof name === "string")) return new Set(value);
  throw new GrammarError('The JSON schema has a "required" that is not a list of property names.');
}

export function arrayPattern(schema: SchemaObject, compile: (schema: Schema) => Pattern): Pattern {
  if (Array.isArray(schema.items)) {
    throw new GrammarError(
      'The JSON schema has a list at "items"; use "prefixItems" for elements by position.',
    );
  }
  const prefix = schema.prefixItems === undefined ? [] : asSchemas(schema.prefixItems, '"prefixItems"');
  const items = asSchema(schema.items ?? true, '"items"');
  const min = countOf(schema, "minItems") ?? 0;
  const max = countOf(schema, "maxItems") ?? Infinity;
  const first = prefix.map((item) => compile(item));
  const rest = items === false ? null : compile(items);
  return sequence(text("["), gap, elements({ first, rest, min, max }), text("]"));
}

interface Elements {
  first: Pattern[];
  /** null: no more than `first`. */
  rest: Pattern | null;
  min: number;
  max: number;
}

/** Built from the back: after element i either the next one follows or, with enough of them, the closing gap. */
function elements({ first, rest, min, max }: Elements): Pattern {
  const item = rest === null ? null : rule({}, () => rest);
  return (build, next) => {
    const end = gap(build, next);
    const heads = first.slice(0, Math.min(first.length, max));
    const from = heads.length;
    let tail = from === 0 ? next : end;
    if (item !== null && max > from) tail = restOf(build, { item, from, min, max, end, next });
    else if (min > from) tail = never(build, next);
    for (let i = from - 1; i >= 0; i--) {
      const element = heads[i]!(build, tail);
      const separated = i === 0 ? element : comma(build, element);
      tail = i >= min ? build.split(separated, i === 0 ? next : end) : separated;
    }
    return tail;
  };
}

/** The elements after the first `from`; without those the first one has no comma. */
function restOf(
  build: ProgramBuilder,
  {
    item,
    from,
    min,
    max,
    end,
    next,
  }: { item: Pattern; from: number; min: number; max: number; end: number; next: number },
): number {
  const more = (done: number) =>
    repeat(sequence(comma, item), Math.max(0, min - done), max - done)(build, end);
  if (from > 0) return more(from);
  const all = item(build, more(1));
  return min === 0 ? build.split(all, next) : all;
}
