/** JSON Schema (2020-12 and the common part of draft 7) as pieces of grammar.
 *  Always: what is generated is valid, and what cannot be enforced is refused by name. Narrower than the standard:
 *  properties come in the schema's order, then additional ones; oneOf is taken as anyOf; a schema without "type" is
 *  given the types that its keywords speak of; strings under "pattern", "format" and "enum" have one spelling. */
import type { JsonValue } from "../messages.ts";
import { decimalRange } from "./decimals.ts";
import { GrammarError, limits } from "./errors.ts";
import { formats } from "./formats.ts";
import { anyValue, number, oneOfValues, string, stringCharacter } from "./json_text.ts";
import { choice, never, rule, sequence, text } from "./patterns.ts";
import type { Pattern } from "./program.ts";
import { partMatch, regexPattern, wholeMatch, withLength } from "./regex.ts";
import { allOf } from "./regex_product.ts";
import type { Regex } from "./regex_syntax.ts";
import { anyCodePoint } from "./unicode.ts";
import { alternatives, sameJson } from "./schema_merge.ts";
import {
  type Schema,
  type SchemaObject,
  asSchema,
  asSchemas,
  countOf,
  numberOf,
  withoutAnnotations,
} from "./schema_reading.ts";
import { arrayPattern, objectPattern } from "./schema_structures.ts";

type TypeName = "string" | "number" | "integer" | "boolean" | "null" | "object" | "array";

const keywordsOf: Record<TypeName, readonly string[]> = {
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  boolean: [],
  null: [],
};
const typeNames = Object.keys(keywordsOf) as TypeName[];
const supported = new Set([...Object.values(keywordsOf).flat(), "type", "enum", "const"]);

export function schemaPattern(root: JsonValue): Pattern {
  return new SchemaCompiler(asSchema(root, "its top")).pattern(asSchema(root, "its top"));
}

class SchemaCompiler {
  private visits = 0;
  private depth = 0;

  constructor(private readonly root: Schema) {}

  pattern(schema: Schema): Pattern {
    if (typeof schema === "boolean") return schema ? anyValue : never;
    this.visit(Object.keys(schema).length);
    if (++this.depth > limits.schemaDepth) throw tooLarge();
    const pattern = this.combined(withoutAnnotations(schema));
    this.depth--;
    return pattern;
  }

  /** Forms that need no merging keep references as rules, so that recursion works. */
  private combined(schema: SchemaObject): Pattern {
    const keys = Object.keys(schema);
    const only = keys.length === 1 ? keys[0] : null;
    if (only === "$ref") return this.reference(schema.$ref!);
    if (only === "anyOf" || only === "oneOf") {
      return choice(...asSchemas(schema[only], only).map((option) => this.pattern(option)));
    }
    if (only === "allOf") {
      const parts = asSchemas(schema.allOf, "allOf");
      if (parts.length === 1) return this.pattern(parts[0]!);
    }
    return choice(...alternatives(schema, this).map((plain) => this.plain(plain)));
  }

  private reference(ref: JsonValue): Pattern {
    const target = this.resolve(ref);
    if (typeof target === "boolean") return this.pattern(target);
    // A rule is compiled after what refers to it: its depth starts anew.
    return rule(target, () => {
      this.depth = 0;
      return this.pattern(target);
    });
  }

  visit(keywords: number): void {
    this.visits += 1 + keywords;
    if (this.visits > limits.schemaVisits) throw tooLarge();
  }

  resolve(ref: JsonValue): Schema {
    if (typeof ref !== "string" || !/^#(\/|$)/.test(ref)) {
      throw new GrammarError(
        `The JSON schema refers to ${JSON.stringify(ref)}; only references within the schema, like "#/$defs/name", can be followed.`,
      );
    }
    this.visit(ref.length);
    let at: JsonValue | undefined = this.root as JsonValue;
    for (const part of ref.split("/").slice(1)) {
      const name = unescapePointer(part);
      at =
        typeof at === "object" && at !== null && Object.hasOwn(at, name)
          ? (at as SchemaObject)[name]
          : undefined;
    }
    return asSchema(at, ref);
  }

  private plain(schema: SchemaObject): Pattern {
    const unknown = Object.keys(schema).find((key) => !supported.has(key) && !isVacuous(key, schema[key]!));
    if (unknown !== undefined) {
      throw new GrammarError(`The JSON schema uses "${unknown}", which cannot be enforced here; remove it.`);
    }
    const types = typesOf(schema);
    if (schema.enum !== undefined || schema.const !== undefined) return enumPattern(schema, types);
    if (types === null) return anyValue;
    return choice(...types.map((type) => this.typed(type, schema)));
  }

  private typed(type: TypeName, schema: SchemaObject): Pattern {
    switch (type) {
      case "null":
        return text("null");
      case "boolean":
        return choice(text("true"), text("false"));
      case "string":
        return stringPattern(schema);
      case "integer":
        return integerPattern(schema);
      case "number":
        return numberPattern(schema);
      case "object":
        return objectPattern(schema, (part) => this.pattern(part));
      case "array":
        return arrayPattern(schema, (part) => this.pattern(part));
      default:
        return type satisfies never;
    }
  }
}

/** Says only what holds anyway; some libraries always write these. */
function isVacuous(key: string, value: JsonValue): boolean {
  return (
    (key === "propertyNames" && (value === true || sameJson(value, { type: "string" }))) ||
    (key === "uniqueItems" && value === false) ||
    (key === "minProperties" && value === 0)
  );
}

function tooLarge(): GrammarError {
  return new GrammarError(
    "The JSON schema is too large or too deep when its references are combined; simplify it.",
  );
}

function unescapePointer(part: string): string {
  try {
    return decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
  } catch {
    throw new GrammarError(`The JSON schema has a $ref with the malformed part ${JSON.stringify(part)}.`);
  }
}

/** null: any type. */
function typesOf(schema: SchemaObject): TypeName[] | null {
  const { type } = schema;
  if (type === undefined) {
    const implied = typeNames.filter(
      (name) => name !== "integer" && keywordsOf[name].some((key) => key in schema),
    );
    return implied.length === 0 ? null : implied;
  }
  const names = [type].flat();
  for (const name of names) {
    if (!typeNames.includes(name as TypeName)) {
      throw new GrammarError(
        `The JSON schema has the unknown type ${JSON.stringify(name)}; use ${typeNames.join(", ")}.`,
      );
    }
  }
  return (names as TypeName[]).filter((name) => name !== "integer" || !names.includes("number"));
}

function enumPattern(schema: SchemaObject, types: TypeName[] | null): Pattern {
  const other = Object.keys(schema).find((key) => key !== "enum" && key !== "const" && key !== "type");
  if (other !== undefined) {
    throw new GrammarError(
      `The JSON schema has "${other}" beside enum or const; leave out the values that it excludes instead.`,
    );
  }
  const { enum: listed = null, const: constant } = schema;
  if (listed !== null && !Array.isArray(listed))
    throw new GrammarError("The JSON schema has an enum that is not a list.");
  const fixed = constant === undefined ? [] : [constant];
  let values = listed ?? fixed;
  if (constant !== undefined) values = values.filter((value) => sameJson(value, constant));
  if (types !== null && schema.type !== undefined)
    values = values.filter((value) => types.some((t) => isOfType(value, t)));
  return oneOfValues(values);
}

function isOfType(value: JsonValue, type: TypeName): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  return type === "integer" ? Number.isInteger(value) : typeof value === type;
}

/** zod writes these beside the pattern that says the same. */
const patternNames = new Set<unknown>([
  "regex",
  "starts_with",
  "ends_with",
  "includes",
  "lowercase",
  "uppercase",
]);

function stringPattern(schema: SchemaObject): Pattern {
  // allOf leaves several patterns behind.
  const patterns = [schema.pattern ?? []].flat();
  const format = patterns.length > 0 && patternNames.has(schema.format) ? undefined : schema.format;
  const min = countOf(schema, "minLength") ?? 0;
  const max = countOf(schema, "maxLength") ?? Infinity;
  if (patterns.length === 0 && format === undefined) return string(min, max);
  if (format !== undefined && !(typeof format === "string" && Object.hasOwn(formats, format))) {
    throw new GrammarError(
      `The JSON schema has the unknown format ${JSON.stringify(format)}; use ${Object.keys(formats).join(", ")}, or a pattern.`,
    );
  }
  const regexes = format === undefined ? [] : [wholeMatch(formats[format]!)];
  for (const pattern of patterns) {
    if (typeof pattern !== "string")
      throw new GrammarError('The JSON schema has a "pattern" that is not a string.');
    regexes.push(partMatch(pattern));
  }
  const key = `string ${JSON.stringify([patterns, format ?? null, min, max])}`;
  return rule(key, () => sequence(text('"'), allMatch(regexes, min, max), text('"')), true);
}

/** The usual case, one expression whose own lengths fit, needs no product. */
function allMatch(regexes: Regex[], min: number, max: number): Pattern {
  const limited = regexes.length === 1 ? withLength(regexes[0]!, min, max) : null;
  if (limited !== null) return regexPattern(limited, stringCharacter);
  const length: Regex = { kind: "repeat", part: { kind: "class", set: anyCodePoint }, min, max };
  return allOf(min === 0 && max === Infinity ? regexes : [...regexes, length], stringCharacter);
}

function integerPattern(schema: SchemaObject): Pattern {
  const { low, high, lowOpen, highOpen } = boundsOf(schema);
  const from = low === null ? null : lowOpen ? Math.floor(low) + 1 : Math.ceil(low);
  const to = high === null ? null : highOpen ? Math.ceil(high) - 1 : Math.floor(high);
  const range = { low: from, high: to, lowOpen: false, highOpen: false, decimals: 0 };
  return rule(`integer ${from} ${to}`, () => decimalRange(range));
}

function numberPattern(schema: SchemaObject): Pattern {
  const bounds = boundsOf(schema);
  if (bounds.low === null && bounds.high === null) return number;
  return rule(`number ${JSON.stringify(bounds)}`, () => decimalRange({ ...bounds, decimals: 20 }));
}

function boundsOf(schema: SchemaObject) {
  const [minimum, above] = [numberOf(schema, "minimum"), numberOf(schema, "exclusiveMinimum")];
  const [maximum, below] = [numberOf(schema, "maximum"), numberOf(schema, "exclusiveMaximum")];
  const lowOpen = above !== null && (minimum === null || above >= minimum);
  const highOpen = below !== null && (maximum === null || below <= maximum);
  return { low: lowOpen ? above : minimum, high: highOpen ? below : maximum, lowOpen, highOpen };
}
