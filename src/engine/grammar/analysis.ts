/** What is known about a program before any output: which states can still finish, which can finish without a byte,
 *  and in which order rules open each other. A program that passes never leads an output into a dead end. */
import { GrammarError } from "./errors.ts";
import { MATCH, counterBase, op, type Program } from "./program.ts";

export interface Analysis {
  /** 1: some text leads from here to the end of the rule. */
  alive: Uint8Array;
  ruleAlive: Uint8Array;
  /** 1: the rule matches the empty text. */
  ruleNullable: Uint8Array;
  /** Callers before callees, along calls that happen before a byte is read. */
  rank: Int32Array;
}

export function analyse(program: Program): Analysis {
  const nullable = reach(program, false);
  for (const rule of program.rules) {
    // Copies that may be empty count like none, so the machine never has to count empty ones.
    if (rule.repeat !== null && nullable.rules[rule.repeat.body] === 1)
      rule.repeat = { ...rule.repeat, min: 0 };
  }
  const rank = rankRules(program, nullable.rules);
  const alive = reach(program, true);
  if (alive.rules[0] !== 1) {
    throw new GrammarError(
      "No text matches the output format; check for contradicting constraints such as an empty enum.",
    );
  }
  return { alive: alive.states, ruleAlive: alive.rules, ruleNullable: nullable.rules, rank };
}

/** Least fixpoint of "can finish": from every state whatever the bytes (`overBytes`), or without any. */
function reach(program: Program, overBytes: boolean): { states: Uint8Array; rules: Uint8Array } {
  const { op: ops, a, b, rules, sets } = program;
  const states = new Uint8Array(ops.length);
  const ruleTruth = new Uint8Array(rules.length);
  const users = stateUsers(program);
  const work: number[] = [];
  const settle = (s: number) => {
    if (states[s] === 1) return;
    const kind = ops[s];
    const holds =
      kind === op.match ||
      (kind === op.byte && overBytes && states[b[s]!] === 1 && !isEmpty(sets, a[s]!)) ||
      (kind === op.split && (states[a[s]!] === 1 || states[b[s]!] === 1)) ||
      (kind === op.call && ruleTruth[a[s]!] === 1 && states[b[s]!] === 1);
    if (holds) {
      states[s] = 1;
      work.push(s);
    }
  };
  const settleRule = (r: number) => {
    if (ruleTruth[r] === 1) return;
    const { repeat, start } = rules[r]!;
    const holds = repeat === null ? states[start] === 1 : repeat.min === 0 || ruleTruth[repeat.body] === 1;
    if (!holds) return;
    ruleTruth[r] = 1;
    for (const s of users.calls[r]!) settle(s);
    for (const user of users.repeats[r]!) settleRule(user);
  };
  settle(MATCH);
  for (let r = 0; r < rules.length; r++) settleRule(r);
  for (let s = work.pop(); s !== undefined; s = work.pop()) {
    for (let e = users.first[s]!; e >= 0; e = users.next[e]!) settle(e >> 1);
    for (const r of users.starts.get(s) ?? []) settleRule(r);
  }
  return { states, rules: ruleTruth };
}

/** Who looks at a state: edges 2s and 2s+1 of state s, chained by their target; and rules by start, calls by rule. */
function stateUsers({ op: ops, a, b, rules }: Program) {
  const first = new Int32Array(ops.length).fill(-1);
  const next = new Int32Array(ops.length * 2);
  const calls: number[][] = rules.map(() => []);
  const repeats: number[][] = rules.map(() => []);
  const starts = new Map<number, number[]>();
  const link = (edge: number, target: number) => {
    next[edge] = first[target]!;
    first[target] = edge;
  };
  for (let s = 0; s < ops.length; s++) {
    if (ops[s] === op.match) continue;
    link(2 * s + 1, b[s]!);
    if (ops[s] === op.split) link(2 * s, a[s]!);
    if (ops[s] === op.call) calls[a[s]!]!.push(s);
  }
  for (const [id, { repeat, start }] of rules.entries()) {
    if (repeat !== null) repeats[repeat.body]!.push(id);
    else if (!starts.get(start)?.push(id)) starts.set(start, [id]);
  }
  return { first, next, calls, repeats, starts };
}

function isEmpty(sets: Uint32Array, set: number): boolean {
  for (let i = 0; i < 8; i++) if (sets[set * 8 + i] !== 0) return false;
  return true;
}

/** Topological order of "calls before reading a byte"; a cycle would open rules for ever. */
function rankRules(program: Program, nullable: Uint8Array): Int32Array {
  const callees = program.rules.map((_, id) => openedAtStart(program, { rule: id, nullable }));
  const callers = new Int32Array(callees.length);
  for (const list of callees) for (const r of list) callers[r]!++;
  const order: number[] = [];
  for (let r = 0; r < callees.length; r++) if (callers[r] === 0) order.push(r);
  for (let i = 0; i < order.length; i++) {
    for (const r of callees[order[i]!]!) if (--callers[r]! === 0) order.push(r);
  }
  if (order.length < callees.length) {
    throw new GrammarError(
      "The output format refers to itself without anything in between, like a $ref to its own schema; put the reference inside a property, an item or an anyOf branch with an object.",
    );
  }
  const rank = new Int32Array(callees.length);
  for (const [position, r] of order.entries()) rank[r] = position;
  return rank;
}

function openedAtStart(
  { op: ops, a, b, rules }: Program,
  of: { rule: number; nullable: Uint8Array },
): Set<number> {
  const { start, repeat } = rules[of.rule]!;
  const opened = new Set<number>();
  if (repeat !== null) return repeat.max > 0 ? opened.add(repeat.body) : opened;
  const seen = new Set([start]);
  const work = [start];
  const visit = (s: number) => {
    if (!seen.has(s)) work.push(s);
    seen.add(s);
  };
  for (let s = work.pop(); s !== undefined; s = work.pop()) {
    if (s >= counterBase) continue;
    if (ops[s] === op.split) {
      visit(a[s]!);
      visit(b[s]!);
    } else if (ops[s] === op.call) {
      opened.add(a[s]!);
      if (of.nullable[a[s]!] === 1) visit(b[s]!);
    }
  }
  return opened;
}
