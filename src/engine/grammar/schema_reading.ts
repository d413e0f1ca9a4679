/** The parts of a JSON schema, checked as they are read: every wrong shape is a GrammarError that names it. */
import type { JsonValue } from "../messages.ts";
import { GrammarError, limits } from "./errors.ts";

export type SchemaObject = { readonly [key: string]: JsonValue };
export type Schema = boolean | SchemaObject;

/** Say nothing about what is valid. */
const annotations = new Set([
  "title",
  "description",
  "default",
  "example",
  "examples",
  "$schema",
  "$id",
  "$comment",
  "$defs",
  "definitions",
  "deprecated",
  "readOnly",
  "writeOnly",
  "discriminator",
]);

export function withoutAnnotations(schema: SchemaObject): SchemaObject {
  return Object.fromEntries(Object.entries(schema).filter(([key]) => !annotations.has(key)));
}

export function asSchema(value: JsonValue | undefined, where: string): Schema {
  if (typeof value === "boolean") return value;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new GrammarError(`The JSON schema has no schema (an object, true or false) at ${where}.`);
}

export function asSchemas(value: JsonValue | undefined, where: string): Schema[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw new GrammarError(`The JSON schema needs a list of schemas with at least one at ${where}.`);
  }
  return value.map((item) => asSchema(item, where));
}

export function propertiesOf(schema: SchemaObject): Map<string, JsonValue> {
  const { properties = {} } = schema;
  if (typeof properties !== "object" || properties === null || Array.isArray(properties)) {
    throw new GrammarError('The JSON schema has something other than an object at "properties".');
  }
  return new Map(Object.entries(properties));
}

export function numberOf(schema: SchemaObject, key: string): number | null {
  const value = schema[key];
  if (value === undefined) return null;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new GrammarError(`The JSON schema has "${key}": ${JSON.stringify(value)}; it must be a number.`);
}

export function countOf(schema: SchemaObject, key: string): number | null {
  const value = numberOf(schema, key);
  if (value === null) return null;
  if (Number.isInteger(value) && value >= 0 && value <= limits.repeatCount) return value;
  throw new GrammarError(
    `The JSON schema has "${key}": ${value}; use an integer from 0 to ${limits.repeatCount}.`,
  );
}
