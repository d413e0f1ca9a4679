/** A zod schema against a body: the checked value, or a RequestError that names the field and says what is wrong.
 *  Error texts show numbers but never strings of the body: what people wrote stays out of errors and logs. */

import type { z } from "zod";
import { RequestError } from "../util/errors.ts";

export interface Validated<T> {
  value: T;
  /** Paths of parameters that had no effect. */
  ignored: string[];
}

/** `lenient`: unknown parameters are removed and listed instead of refused. */
export function validate<S extends z.ZodType>(
  schema: S,
  body: Record<string, unknown>,
  options: { lenient: boolean },
): Validated<z.output<S>> {
  const ignored: string[] = [];
  for (;;) {
    const result = schema.safeParse(body);
    if (result.success) return { value: result.data, ignored };
    const issues = result.error.issues.map((issue) => innermost(issue));
    const unknown = issues.filter((issue) => issue.code === "unrecognized_keys");
    if (!options.lenient || unknown.length < issues.length) throw requestError(issues, body);
    for (const issue of unknown) ignored.push(...remove(body, issue));
  }
}

type Issue = z.core.$ZodIssue;

function requestError(issues: Issue[], body: unknown): RequestError {
  // A wrong value is worth more to the reader than an unknown name next to it.
  const issue = issues.find((one) => one.code !== "unrecognized_keys") ?? issues[0]!;
  if (issue.code === "unrecognized_keys") {
    const param = pathName([...issue.path, issue.keys[0]!]).slice(0, 200);
    return new RequestError(
      `Unknown parameter: ${param}. Leave it out, or send the header x-koala-unknown-parameters: ignore.`,
      { param, code: "unknown_parameter" },
    );
  }
  const param = pathName(issue.path) || null;
  const value = valueAt(body, issue.path);
  if (value === undefined)
    return new RequestError(`${param ?? "The body"} is required.`, {
      param,
      code: "missing_required_parameter",
    });
  return new RequestError(`${param ?? "The body"} ${complaint(issue, value)}.`, {
    param,
    code: "invalid_value",
  });
}

function complaint(issue: Issue, value: unknown): string {
  const is = typeof value === "number" || typeof value === "bigint" ? `, but is ${value}` : "";
  switch (issue.code) {
    case "too_big":
      return `must be at most ${issue.maximum}${unit(issue.origin)}${is || lengthOf(value)}`;
    case "too_small":
      return `must be ${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum}${unit(issue.origin)}${is || lengthOf(value)}`;
    case "invalid_type":
      return `must be ${article(issue.expected)}, but is ${nameOf(value)}`;
    case "invalid_value":
      return `must be ${issue.values.map((one) => JSON.stringify(one)).join(" or ")}`;
    case "invalid_union":
      return "discriminator" in issue && "options" in issue
        ? `must be one of ${(issue.options as unknown[]).map((one) => JSON.stringify(one)).join(", ")}`
        : `must be ${expected(issue)}, but is ${nameOf(value)}`;
    case "custom":
      return issue.message;
    case "invalid_format":
      return `has the wrong format`;
    case "invalid_key":
      return `has a key of the wrong form`;
    default:
      return "is not valid";
  }
}

/** "a string or an array", from branches that all failed at their top. */
function expected(issue: Extract<Issue, { code: "invalid_union" }>): string {
  const types = issue.errors
    .map((branch) => branch[0]!)
    .map((first) => (first.code === "invalid_type" ? article(first.expected) : "another value"));
  return [...new Set(types)].join(" or ");
}

/** Of a union's branches, the one that came furthest: its complaint is about the value, not about the wrong branch. */
function innermost(issue: Issue, prefix: PropertyKey[] = []): Issue {
  const path = [...prefix, ...issue.path];
  if (issue.code !== "invalid_union" || issue.errors.length === 0) return { ...issue, path };
  const branches = issue.errors.filter((branch) => branch.length > 0);
  const best = branches.reduce((a, b) => (depth(b) > depth(a) ? b : a));
  // All branches failed at the top: no type fits, and naming one of them would mislead.
  if (
    branches.length > 1 &&
    branches.every((branch) => branch[0]!.code === "invalid_type" && branch[0]!.path.length === 0)
  )
    return { ...issue, path };
  return innermost(best.find((one) => one.code !== "unrecognized_keys") ?? best[0]!, path);
}

const depth = (branch: Issue[]): number => Math.max(...branch.map(reach));

/** Deeper is further, a wrong value further than a wrong type, a later element further than an earlier one. */
function reach(issue: Issue): number {
  const last = issue.path.at(-1);
  return (
    2 * issue.path.length +
    (issue.code === "invalid_type" ? 0 : 1) +
    (typeof last === "number" ? last / 2 ** 32 : 0)
  );
}

function remove(
  body: Record<string, unknown>,
  issue: Extract<Issue, { code: "unrecognized_keys" }>,
): string[] {
  const owner = valueAt(body, issue.path) as Record<string, unknown>;
  for (const key of issue.keys) delete owner[key];
  return issue.keys.map((key) => pathName([...issue.path, key]));
}

function valueAt(body: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, key) =>
      typeof value === "object" && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined,
    body,
  );
}

/** messages[0].content */
const pathName = (path: readonly PropertyKey[]): string =>
  path
    .map((part, i) => (typeof part === "number" ? `[${part}]` : `${i > 0 ? "." : ""}${String(part)}`))
    .join("");

const unit = (origin: string): string =>
  origin === "string" ? " characters long" : origin === "array" || origin === "set" ? " entries long" : "";

const lengthOf = (value: unknown): string =>
  typeof value === "string" || Array.isArray(value) ? `, but has ${value.length}` : "";

function nameOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "not a finite number";
  if (typeof value === "bigint") return `${value}, beyond the exact integers`;
  return article(typeof value);
}

const article = (type: string): string => {
  const name = type === "int" ? "integer" : type === "record" ? "object" : type;
  return `${/^[aeiou]/.test(name) ? "an" : "a"} ${name}`;
};
