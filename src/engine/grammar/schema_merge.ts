/** A schema with allOf, anyOf, oneOf or $ref as a list of plain ones, any of which may hold.
 *  Always: the plain schemas have none of these keywords at the top (deeper ones are merged when they are compiled). */
import type { JsonValue } from "../messages.ts";
import { GrammarError, limits } from "./errors.ts";

import {
  type Schema,
  type SchemaObject,
  asSchemas,
  propertiesOf,
  withoutAnnotations,
} from "./schema_reading.ts";

export interface Context {
  /** The target of a $ref. */
  resolve(ref: JsonValue): Schema;
  /** Throws when too much was looked at. */
  visit(keywords: number): void;
}

export function alternatives(schema: Schema, context: Context): SchemaObject[] {
  return expand(schema, context, 0);
}

function expand(schema: Schema, context: Context, depth: number): SchemaObject[] {
  if (typeof schema === "boolean") return schema ? [{}] : [];
  if (depth > 32) {
    throw new GrammarError(
      "The JSON schema combines allOf, anyOf or $ref more than 32 deep; write the combined schema out.",
    );
  }
  const { allOf, anyOf, oneOf, $ref, ...own } = withoutAnnotations(schema);
  if (own.pattern !== undefined && typeof own.pattern !== "string") {
    throw new GrammarError('The JSON schema has a "pattern" that is not a string.');
  }
  let result: SchemaObject[] = [own];
  const meet = (options: SchemaObject[]) => (result = cross(result, options, context));
  if ($ref !== undefined) meet(expand(context.resolve($ref), context, depth + 1));
  if (allOf !== undefined) {
    for (const part of asSchemas(allOf, "allOf")) meet(expand(part, context, depth + 1));
  }
  if (anyOf !== undefined)
    meet(asSchemas(anyOf, "anyOf").flatMap((part) => expand(part, context, depth + 1)));
  if (oneOf !== undefined)
    meet(asSchemas(oneOf, "oneOf").flatMap((part) => expand(part, context, depth + 1)));
  return result;
}

function cross(left: SchemaObject[], right: SchemaObject[], context: Context): SchemaObject[] {
  if (left.length * right.length > limits.mergedAlternatives) {
    throw new GrammarError(
      `The JSON schema combines to more than ${limits.mergedAlternatives} alternatives; use fewer anyOf inside allOf.`,
    );
  }
  for (const schema of [...left, ...right]) context.visit(4 + sizeOf(schema) * left.length);
  return left.flatMap((x) => right.map((y) => both(x, y))).filter((schema) => schema !== null);
}

/** Roughly what merging it costs. */
function sizeOf(schema: SchemaObject): number {
  const { properties, enum: values, required, prefixItems } = schema;
  return [properties, values, required, prefixItems].reduce<number>(
    (sum, part) => sum + (typeof part === "object" && part !== null ? Object.keys(part).length : 0),
    Object.keys(schema).length,
  );
}

/** What holds for both; null: nothing can. */
function both(x: SchemaObject, y: SchemaObject): SchemaObject | null {
  if (Object.keys(x).length === 0) return y;
  if (Object.keys(y).length === 0) return x;
  // Without a prototype, a keyword named __proto__ stays a keyword (and is refused later).
  const result: Record<string, JsonValue> = Object.create(null) as Record<string, JsonValue>;
  for (const key of new Set([...Object.keys(x), ...Object.keys(y)])) {
    const [left, right] = [x[key], y[key]];
    if (right === undefined) result[key] = left!;
    else if (left === undefined) result[key] = right;
    else {
      const merged = mergeKeyword(key, left, right);
      if (merged === null) return null;
      result[key] = merged;
    }
  }
  mergeObjects(result, x, y);
  mergeArrays(result, x, y);
  return result;
}

function mergeKeyword(key: string, x: JsonValue, y: JsonValue): JsonValue | null {
  if (sameJson(x, y)) return x;
  if (/^(min[A-Z]|minimum$|exclusiveMinimum$)/.test(key)) return Math.max(Number(x), Number(y));
  if (/^(max[A-Z]|maximum$|exclusiveMaximum$)/.test(key)) return Math.min(Number(x), Number(y));
  switch (key) {
    case "type":
      return commonTypes([x].flat(), [y].flat());
    case "enum":
      return [x].flat().filter((value) => [y].flat().some((other) => sameJson(value, other)));
    case "const":
      return null;
    case "pattern":
      return [x, y].flat();
    case "required":
      return [...new Set([x, y].flat())];
    case "items":
    case "additionalProperties":
      return { allOf: [x, y] };
    case "properties":
    case "prefixItems":
      return x; // Merged below, where the rest of both schemas is known.
    default:
      throw new GrammarError(
        `The JSON schema combines two different values of "${key}" by allOf, anyOf or $ref; write the combined schema out.`,
      );
  }
}

function commonTypes(x: JsonValue[], y: JsonValue[]): JsonValue[] | null {
  const common = x.flatMap((type) => {
    if (y.includes(type)) return [type];
    if (type === "number" && y.includes("integer")) return ["integer"];
    return type === "integer" && y.includes("number") ? ["integer"] : [];
  });
  return common.length === 0 ? null : common;
}

/** A property that only one side names also has to satisfy the other side's additionalProperties. */
function mergeObjects(result: Record<string, JsonValue>, x: SchemaObject, y: SchemaObject): void {
  if (x.properties === undefined && y.properties === undefined) return;
  const left = propertiesOf(x);
  const right = propertiesOf(y);
  const names = new Set([...left.keys(), ...right.keys()]);
  result.properties = Object.fromEntries(
    [...names].map((name) => [
      name,
      meet(left.get(name) ?? x.additionalProperties, right.get(name) ?? y.additionalProperties),
    ]),
  );
}

function mergeArrays(result: Record<string, JsonValue>, x: SchemaObject, y: SchemaObject): void {
  if (x.prefixItems === undefined && y.prefixItems === undefined) return;
  const left = [x.prefixItems ?? []].flat();
  const right = [y.prefixItems ?? []].flat();
  result.prefixItems = Array.from({ length: Math.max(left.length, right.length) }, (_, i) =>
    meet(left[i] ?? x.items, right[i] ?? y.items),
  );
}

function meet(x: JsonValue | undefined, y: JsonValue | undefined): JsonValue {
  if (x === undefined || x === true) return y ?? true;
  if (y === undefined || y === true) return x;
  return x === false || y === false ? false : { allOf: [x, y] };
}

/** Equal as JSON Schema compares: 1 and 1.0 alike, keys in any order. */
export function sameJson(x: JsonValue, y: JsonValue): boolean {
  if (x === y) return true;
  if (typeof x !== "object" || typeof y !== "object" || x === null || y === null) return false;
  if (Array.isArray(x) || Array.isArray(y)) {
    if (!Array.isArray(x) || !Array.isArray(y) || x.length !== y.length) return false;
    return x.every((item, i) => sameJson(item, y[i]!));
  }
  const keys = Object.keys(x);
  return (
    keys.length === Object.keys(y).length &&
    keys.every((key) => Object.hasOwn(y, key) && sameJson(x[key]!, y[key]!))
  );
}
