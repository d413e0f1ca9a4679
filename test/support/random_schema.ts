/** Random JSON schemas with values that satisfy them, and small changes to such values. Written without the code under
 *  test; objects keep the schema's order of properties, additional ones last, which is the order that is generated. */
import type { JsonValue } from "../../src/engine/messages.ts";
import { pick } from "./grammar_vocabulary.ts";

export interface Example {
  schema: JsonValue;
  value: () => JsonValue;
}

type Random = () => number;

const texts = [
  "",
  "a",
  "ab",
  "abc",
  'q"uote',
  "back\\slash",
  "new\nline",
  "é",
  "中文",
  "\u0001",
  "/",
  "tab\t",
  "x".repeat(9),
];
const patterns: [pattern: string, matching: string[]][] = [
  ["^[a-z]{2,4}$", ["ab", "abc", "abcd"]],
  ["b+", ["b", "abbc", "xb\n"]],
  ["^(foo|ba[rz])?$", ["", "foo", "bar", "baz"]],
  ["^\\d{3}-\\d{4}$", ["555-1234", "000-0000"]],
  ['^"|\\\\$', ['"', '"x', "x\\"]],
];
const formatted: [format: string, matching: string[]][] = [
  ["date", ["2024-02-29", "1999-12-31", "2000-02-29"]],
  ["time", ["23:59:59Z", "00:00:00.123+01:30"]],
  ["date-time", ["2024-02-29T12:00:00Z", "2001-01-01T00:00:00.5-08:00"]],
  ["uuid", ["123e4567-e89b-42d3-a456-426614174000"]],
  ["email", ["a@b.co", "first.last+tag@mail.example.org"]],
  ["ipv4", ["0.0.0.0", "255.249.199.9"]],
  ["ipv6", ["2001:db8:0:0:0:0:0:1"]],
  ["duration", ["P3W", "P1Y2M3DT4H", "PT5M"]],
  ["hostname", ["example.com", "a-b.c0"]],
];

export function randomExample(random: Random, depth = 3): Example {
  const leaves = [text, text, matching, integer, decimal, fixed, simple];
  const branches = depth > 0 ? [object, object, object, array, array, tuple, either] : [];
  return pick([...leaves, ...branches], random)(random, depth);
}

function count(random: Random, most: number): number {
  return Math.floor(random() * (most + 1));
}

function simple(random: Random): Example {
  const type = pick(["null", "boolean"], random);
  return { schema: { type }, value: () => (type === "null" ? null : random() < 0.5) };
}

function text(random: Random): Example {
  const minLength = count(random, 3);
  const maxLength = minLength + count(random, 4);
  const schema: JsonValue = { type: "string" };
  if (random() < 0.5) schema.minLength = minLength;
  if (random() < 0.5) schema.maxLength = maxLength;
  const value = () =>
    (pick(texts, random) + "pad").padEnd(minLength, "é").slice(0, random() < 0.5 ? minLength : maxLength);
  return { schema, value };
}

function matching(random: Random): Example {
  if (random() < 0.5) {
    const [pattern, values] = pick(patterns, random);
    return { schema: { type: "string", pattern }, value: () => pick(values, random) };
  }
  const [format, values] = pick(formatted, random);
  return { schema: { type: "string", format }, value: () => pick(values, random) };
}

function integer(random: Random): Example {
  const low = count(random, 2000) - 1000;
  const high = low + count(random, random() < 0.5 ? 20 : 3000);
  const schema: JsonValue = { type: "integer" };
  if (random() < 0.7)
    Object.assign(schema, random() < 0.5 ? { minimum: low } : { exclusiveMinimum: low - 1 });
  if (random() < 0.7)
    Object.assign(schema, random() < 0.5 ? { maximum: high } : { exclusiveMaximum: high + 0.5 });
  return { schema, value: () => low + count(random, high - low) };
}

function decimal(random: Random): Example {
  const schema: JsonValue = { type: "number" };
  if (random() < 0.3) {
    return { schema, value: () => pick([0, -1.5, 1e21, 1e-7, 123456.789, 5e-324, 1.7e300, -2e-10], random) };
  }
  const low = Math.round(random() * 2000 - 1000) / pick([1, 10, 100], random);
  const high = low + count(random, 500) / 100 + 0.01;
  Object.assign(schema, random() < 0.5 ? { minimum: low } : { exclusiveMinimum: low });
  if (random() < 0.8) Object.assign(schema, random() < 0.5 ? { maximum: high } : { exclusiveMaximum: high });
  return { schema, value: () => Number((low + (high - low) * (0.01 + 0.98 * random())).toFixed(6)) };
}

function fixed(random: Random): Example {
  const values: JsonValue[] = [
    pick(texts, random),
    count(random, 99),
    random() < 0.5,
    null,
    "red",
    "reddish",
    1.5,
  ];
  if (random() < 0.3) return { schema: { const: values[0]! }, value: () => values[0]! };
  return { schema: { enum: values }, value: () => pick(values, random) };
}

function either(random: Random, depth: number): Example {
  const options = Array.from({ length: 1 + count(random, 2) }, () => randomExample(random, depth - 1));
  return {
    schema: { anyOf: options.map(({ schema }) => schema) },
    value: () => pick(options, random).value(),
  };
}

function array(random: Random, depth: number): Example {
  const item = randomExample(random, depth - 1);
  const minItems = count(random, 2);
  const maxItems = minItems + count(random, 2);
  const schema: JsonValue = { type: "array", items: item.schema };
  if (random() < 0.6) schema.minItems = minItems;
  if (random() < 0.6) schema.maxItems = maxItems;
  const length = () => minItems + count(random, maxItems - minItems);
  return { schema, value: () => Array.from({ length: length() }, item.value) };
}

function tuple(random: Random, depth: number): Example {
  const parts = Array.from({ length: 1 + count(random, 2) }, () => randomExample(random, depth - 1));
  const schema: JsonValue = {
    type: "array",
    prefixItems: parts.map((part) => part.schema),
    minItems: parts.length,
  };
  const closed = random() < 0.5;
  schema.items = closed ? false : { type: "integer" };
  const rest = () => (closed ? [] : Array.from({ length: count(random, 2) }, () => count(random, 9)));
  return { schema, value: () => [...parts.map((part) => part.value()), ...rest()] };
}

function object(random: Random, depth: number): Example {
  const names = ["a", "ab", "b", "é", 'q"', "line\n"].filter(() => random() < 0.5);
  const members = names.map((name) => ({
    name,
    part: randomExample(random, depth - 1),
    required: random() < 0.5,
  }));
  const additional = random() < 0.4 ? null : randomExample(random, 0);
  const schema: JsonValue = {
    type: "object",
    properties: Object.fromEntries(members.map(({ name, part }) => [name, part.schema])),
    required: members.filter(({ required }) => required).map(({ name }) => name),
    additionalProperties: additional === null ? false : additional.schema,
  };
  const value = () => {
    const present = members.filter(({ required }) => required || random() < 0.6);
    const extra = additional === null ? [] : ["abc", "c", "z", ""].filter(() => random() < 0.3);
    return Object.fromEntries([
      ...present.map(({ name, part }) => [name, part.value()] as const),
      ...extra.map((name) => [name, additional!.value()] as const),
    ]);
  };
  return { schema, value };
}

/** The value with one place changed: another type, a neighbouring number, a longer text, an element more or less. */
export function mutated(value: JsonValue, random: Random): JsonValue {
  if (Array.isArray(value)) {
    if (value.length === 0 || random() < 0.3)
      return random() < 0.5 ? [...value, pick([1, "x", null], random)] : value.slice(0, -1);
    const at = count(random, value.length - 1);
    return value.map((item, i) => (i === at ? mutated(item, random) : item));
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value);
    const at = count(random, entries.length - 1);
    if (entries.length === 0 || random() < 0.2) return { ...value, zz: pick([1, "x", null], random) };
    if (random() < 0.3) return Object.fromEntries(entries.filter((_, i) => i !== at));
    return Object.fromEntries(
      entries.map(([key, item], i) => [key, i === at ? mutated(item, random) : item]),
    );
  }
  if (random() < 0.2) return pick([null, true, 3, "x", {}, []] as JsonValue[], random);
  if (typeof value === "number")
    return pick([value + 1, value - 1, value + 0.01, -value, value * 100], random);
  if (typeof value === "string")
    return pick([`${value}b`, value.slice(1), `é${value}`, `${value}\\`], random);
  return pick([true, false, null], random);
}
