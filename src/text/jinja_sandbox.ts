/** Chat templates rendered by @huggingface/jinja under budgets: a template comes with a model from the internet.
 *  Always: templates see plain data only, no object or function of ours but range, raise_exception and strftime_now;
 *  steps, time, depth, list sizes and every string on the way are bounded *before* they are built, so a template that
 *  loops or doubles for ever ends with one sentence and harms no neighbour. */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { RequestError, UsageError } from "../util/errors.ts";
import {
  Budget,
  BudgetError,
  defaultLimits,
  measure,
  type SandboxLimits,
  type Value,
} from "./jinja_budget.ts";
import { strftime } from "./strftime.ts";
import type { Json } from "./tokenizer_file.ts";

const sourceMax = 1_048_576;
const cacheSize = 32;

export interface CompiledTemplate {
  readonly source: string;
  /** Throws RequestError with the template's own message (raise_exception), its mistake, or the budget that it broke. */
  render(
    variables: { [name: string]: Json },
    options?: { now?: Date; limits?: Partial<SandboxLimits> },
  ): string;
}

const cache = new Map<string, CompiledTemplate>();

/** Compiled once: the last 32 sources are remembered. */
export function compileTemplate(source: string, name: string): CompiledTemplate {
  const known = cache.get(source);
  if (known) {
    // Re-inserted, so the one dropped below is the one longest unused.
    cache.delete(source);
    cache.set(source, known);
    return known;
  }
  const program = parseSource(source, name);
  const compiled: CompiledTemplate = {
    source,
    render: (variables, options = {}) =>
      render(program, variables, options.now ?? new Date(), { ...defaultLimits, ...options.limits }),
  };
  cache.set(source, compiled);
  if (cache.size > cacheSize) cache.delete(cache.keys().next().value!);
  return compiled;
}

type Program = ReturnType<typeof parse>;

function parseSource(source: string, name: string): Program {
  if (source.length > sourceMax) {
    throw new UsageError(
      `The chat template in ${name} has ${source.length} characters, more than the ${sourceMax} that are read.`,
    );
  }
  try {
    return parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  } catch (error) {
    throw new UsageError(
      `The chat template in ${name} cannot be read: ${reasonOf(error)}. Name another with --chat-template.`,
    );
  }
}

function render(
  program: Program,
  variables: { [name: string]: Json },
  now: Date,
  limits: SandboxLimits,
): string {
  const budget = new Budget(limits);
  const environment = new Environment();
  for (const [name, value] of Object.entries(globals(budget, now))) environment.set(name, value);
  for (const [name, value] of Object.entries(variables))
    if (!(name in reserved)) environment.set(name, value);
  try {
    const result = new BudgetInterpreter(environment, budget).run(program) as Value;
    return String(result.value);
  } catch (error) {
    if (error instanceof BudgetError || error instanceof TemplateException)
      throw new RequestError(error.message, { param: "messages" });
    if (error instanceof RangeError)
      throw new RequestError("The chat template nests or grows without end.", { param: "messages" });
    throw new RequestError(`The chat template failed: ${reasonOf(error)}.`, { param: "messages" });
  }
}

const reserved = {
  true: 1,
  false: 1,
  none: 1,
  True: 1,
  False: 1,
  None: 1,
  range: 1,
  raise_exception: 1,
  strftime_now: 1,
  namespace: 1,
};

function globals(budget: Budget, now: Date): { [name: string]: unknown } {
  return {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    range: (...bounds: unknown[]) => range(budget, bounds),
    raise_exception: (message: unknown) => {
      throw new TemplateException(String(message));
    },
    strftime_now: (format: unknown) => strftime(now, String(format)),
  };
}

const reasonOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/\.$/, "");

class TemplateException extends Error {}
interface Node {
  type: string;
  [field: string]: unknown;
}
/** What the library's interpreter has and its types call private. */
interface OpenInterpreter {
  run(program: Program): unknown;
  evaluate(node: Node | undefined, environment: Environment): Value;
  evaluateBlock(nodes: Node[], environment: Environment): Value;
  applyFilter(operand: Value, filter: Node, environment: Environment): Value;
  evaluateArguments(args: Node[], environment: Environment): [Value[], Map<string, Value>];
}

/** Nodes whose result may be a newly built list or mapping. */
const builders = new Set([
  "ArrayLiteral",
  "TupleLiteral",
  "ObjectLiteral",
  "BinaryExpression",
  "FilterExpression",
  "CallExpression",
]);

/** The text's node where this one may fetch its method `replace`. */
function replacedObject(node: Node): Node | null {
  if (node.type !== "MemberExpression") return null;
  return node.computed || (node.property as Node).value === "replace" ? (node.object as Node) : null;
}

const OpenBase = Interpreter as unknown as new (environment: Environment) => OpenInterpreter;

class BudgetInterpreter extends OpenBase {
  constructor(
    environment: Environment,
    private readonly budget: Budget,
  ) {
    super(environment);
  }

  /** Nodes whose latest value is wanted: the text in front of `.replace`. */
  private readonly watched = new Set<Node>();
  private readonly objects = new Map<Node, Value>();

  override evaluate(node: Node | undefined, environment: Environment): Value {
    const { budget } = this;
    budget.spend(1);
    if (++budget.depth > budget.limits.depth)
      throw new BudgetError(`The chat template nests deeper than ${budget.limits.depth} levels.`);
    const replaced = node ? replacedObject(node) : null;
    if (replaced) this.watched.add(replaced);
    try {
      const result = super.evaluate(node, environment);
      if (result.type === "StringValue") this.checkString(result.value as string);
      else if (node && builders.has(node.type)) measure(result, budget);
      if (node && this.watched.has(node)) this.objects.set(node, result);
      return replaced && result.type === "FunctionValue"
        ? this.guardMethod(this.objects.get(replaced)!, result)
        : result;
    } finally {
      budget.depth--;
    }
  }

  private checkString(text: string): void {
    this.budget.string(text.length);
    this.budget.spend(text.length >> 12);
  }

  override evaluateBlock(nodes: Node[], environment: Environment): Value {
    this.budget.spend(1);
    const result = super.evaluateBlock(nodes, environment);
    this.checkString(result.value as string);
    return result;
  }

  /** `text.replace(old, new)` is the one method whose result is not bounded by what goes in. */
  private guardMethod(object: Value, method: Value): Value {
    const call = method.value as (args: Value[], environment: Environment) => Value;
    const guarded = Object.create(Object.getPrototypeOf(method)) as Value;
    return Object.assign(guarded, method, {
      value: (args: Value[], environment: Environment) => {
        this.checkReplace(object, args);
        return call(args, environment);
      },
    });
  }

  private checkReplace(object: Value, [from, to]: Value[]): void {
    const text = object.value;
    if (typeof text !== "string" || typeof from?.value !== "string" || typeof to?.value !== "string") return;
    const growth = to.value.length - from.value.length;
    if (growth <= 0) return;
    let count = from.value === "" ? text.length + 1 : 0;
    if (from.value !== "")
      for (let at = text.indexOf(from.value); at >= 0; at = text.indexOf(from.value, at + from.value.length))
        count++;
    this.budget.spend(text.length >> 12);
    this.budget.string(text.length + count * growth);
  }

  override applyFilter(operand: Value, filter: Node, environment: Environment): Value {
    const name = String(filter.type === "CallExpression" ? (filter.callee as Node).value : filter.value);
    if (name === "join" || name === "indent" || name === "replace" || name === "tojson") {
      const [args, named] =
        filter.type === "CallExpression"
          ? this.evaluateArguments(filter.args as Node[], environment)
          : [[], new Map<string, Value>()];
      this.checkFilter(name, operand, [...args, ...named.values()]);
    }
    return super.applyFilter(operand, filter, environment);
  }

  private checkFilter(name: "join" | "indent" | "replace" | "tojson", operand: Value, args: Value[]): void {
    const { budget } = this;
    const text = typeof operand.value === "string" ? operand.value : "";
    const width = args.reduce(
      (sum, arg) => sum + (typeof arg.value === "number" ? Math.abs(arg.value) : 0),
      0,
    );
    const words = args.reduce((sum, arg) => sum + (typeof arg.value === "string" ? arg.value.length : 0), 0);
    if (name === "replace") this.checkReplace(operand, args);
    else if (name === "indent") budget.string(text.length + (text.split("\n").length + 1) * width);
    else {
      const { nodes, depth, characters } = measure(operand, budget);
      budget.string(characters + nodes * (depth * width + words));
    }
  }
}

function range(budget: Budget, bounds: unknown[]): number[] {
  const numbers = bounds.filter((bound) => bound !== undefined && bound !== null).map(Number);
  const [start, stop, step] =
    numbers.length === 1 ? [0, numbers[0]!, 1] : [numbers[0]!, numbers[1]!, numbers[2] ?? 1];
  if (![start, stop, step].every(Number.isInteger) || step === 0)
    throw new Error("range() takes whole numbers and a step that is not 0");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  budget.list(count);
  budget.spend(count >> 2);
  return Array.from({ length: count }, (_, i) => start + i * step);
}
