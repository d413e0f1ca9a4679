/** Numbers in koala-tiny's corpus: arithmetic, comparison, counting, units. Every answer is computed. */
import { lookup, type Item, type Topic } from "./topic.ts";

export function numberTopics(): Topic[] {
  return [...arithmetic(), ...comparison(), ...counting(), ...units()];
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

/** All pairs for which `keep` holds, with the result of `operation`. */
const pairsOf = (
  as: readonly number[],
  bs: readonly number[],
  operation: (a: number, b: number) => number | string,
  keep: (a: number, b: number) => boolean = () => true,
): Item[] =>
  as.flatMap((a) =>
    bs.filter((b) => keep(a, b)).map((b) => ({ a: String(a), b: String(b), v: String(operation(a, b)) })),
  );

function arithmetic(): Topic[] {
  const add = pairsOf(range(0, 20), range(0, 20), (a, b) => a + b);
  const subtract = pairsOf(
    range(0, 20),
    range(0, 20),
    (a, b) => a - b,
    (a, b) => a >= b,
  );
  const multiply = pairsOf(range(0, 10), range(0, 10), (a, b) => a * b);
  const options = { holdOut: "items" } as const;
  return [
    lookup(
      "addition",
      8,
      add,
      [
        "What is {a} + {b}?",
        "{a} + {b}",
        "How much is {a} plus {b}?",
        "Add {a} and {b}.",
        "What is {a} plus {b}?",
        "Calculate {a} + {b}.",
      ],
      ["{a} + {b} = {v}."],
      { ...options, followUp: "And {a} + {b}?" },
    ),
    lookup(
      "subtraction",
      5,
      subtract,
      [
        "What is {a} - {b}?",
        "{a} - {b}",
        "How much is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "What is {a} minus {b}?",
        "Calculate {a} - {b}.",
      ],
      ["{a} - {b} = {v}."],
      { ...options, followUp: "And {a} - {b}?" },
    ),
    lookup(
      "multiplication",
      4,
      multiply,
      [
        "What is {a} * {b}?",
        "{a} times {b}",
        "{a} x {b}",
        "How much is {a} times {b}?",
        "Multiply {a} by {b}.",
        "What is {a} times {b}?",
        "Calculate {a} * {b}.",
      ],
      ["{a} * {b} = {v}."],
      { ...options, followUp: "And {a} times {b}?" },
    ),
  ];
}

function comparison(): Topic[] {
  const numbers = range(0, 30);
  const different = (a: number, b: number): boolean => a !== b;
  const larger = pairsOf(numbers, numbers, Math.max, different);
  const smaller = pairsOf(numbers, numbers, Math.min, different);
  const kinds = range(0, 60).map((a) => ({ a: String(a), v: a % 2 === 0 ? "even" : "odd" }));
  return [
    lookup(
      "larger",
      2,
      larger,
      ["Which number is larger, {a} or {b}?", "What is larger: {a} or {b}?"],
      ["{v} is larger."],
      { holdOut: "items" },
    ),
    lookup(
      "smaller",
      2,
      smaller,
      ["Which number is smaller, {a} or {b}?", "What is smaller: {a} or {b}?"],
      ["{v} is smaller."],
      { holdOut: "items" },
    ),
    lookup(
      "even or odd",
      2,
      kinds,
      ["Is {a} even or odd?", "Is the number {a} even or odd?", "Tell me whether {a} is odd or even."],
      ["{a} is {v}."],
      { followUp: "And {a}?" },
    ),
  ];
}

function counting(): Topic[] {
  const after = range(0, 99).map((a) => ({ a: String(a), v: String(a + 1) }));
  const before = range(1, 99).map((a) => ({ a: String(a), v: String(a - 1) }));
  const up = range(1, 10).flatMap((a) =>
    range(a + 2, Math.min(a + 9, 15)).map((b) => ({ a: String(a), b: String(b), v: range(a, b).join(", ") })),
  );
  const down = range(3, 12).map((a) => ({ a: String(a), v: range(1, a).toReversed().join(", ") }));
  return [
    lookup(
      "number after",
      2,
      after,
      ["What number comes after {a}?", "Which number follows {a}?", "What is the next number after {a}?"],
      ["After {a} comes {v}."],
      { followUp: "And after {a}?" },
    ),
    lookup(
      "number before",
      2,
      before,
      ["What number comes before {a}?", "Which number is just before {a}?"],
      ["Before {a} comes {v}."],
      { followUp: "And before {a}?" },
    ),
    lookup(
      "counting",
      3,
      up,
      ["Count from {a} to {b}.", "Can you count from {a} to {b}?", "Please count from {a} to {b}."],
      ["{v}."],
    ),
    lookup(
      "counting down",
      2,
      down,
      [
        "Count down from {a}.",
        "Count backwards from {a} to 1.",
        "Can you count down from {a}?",
        "Please count down from {a} to 1.",
      ],
      ["{v}."],
    ),
  ];
}

const unitTable = [
  ["minute", "minutes", "seconds", 60],
  ["hour", "hours", "minutes", 60],
  ["day", "days", "hours", 24],
  ["week", "weeks", "days", 7],
  ["year", "years", "months", 12],
  ["meter", "meters", "centimeters", 100],
  ["kilometer", "kilometers", "meters", 1000],
  ["kilogram", "kilograms", "grams", 1000],
  ["liter", "liters", "milliliters", 1000],
  ["foot", "feet", "inches", 12],
  ["dozen", "dozen", "pieces", 12],
] as const;

function units(): Topic[] {
  const items = unitTable.flatMap(([one, many, small, factor]) =>
    range(1, 10).map((n) => ({
      small,
      large: `${n} ${n === 1 ? one : many}`,
      are: n === 1 ? "is" : "are",
      v: `${n * factor} ${small}`,
    })),
  );
  return [
    lookup(
      "units",
      5,
      items,
      [
        "How many {small} {are} in {large}?",
        "Convert {large} to {small}.",
        "What is {large} in {small}?",
        "How many {small} are {large}?",
      ],
      ["{large} {are} {v}."],
      { followUp: "And {large}?" },
    ),
  ];
}
