/** A topic of koala-tiny's corpus: questions with one right answer each, and a wrong one for the negative marker.
 *  Always: an answer is a function of its question (no dice), so that a model of a few million parameters can learn it. */

export interface Exchange {
  topic: string;
  question: string;
  answer: string;
  /** Fluent, and not what was asked for. */
  wrong: string;
  /** What a right answer must hold, where that can be said. */
  expected: string | null;
  /** What the same question is about, whatever its wording. */
  item: string;
  /** A short question that only makes sense behind another of this topic. */
  followUp: string | null;
}

export interface Topic {
  name: string;
  /** How often it is drawn, against the others. */
  weight: number;
  /** Keep whole items out of training (arithmetic), or only some of their wordings. */
  holdOut: "items" | "wordings";
  exchanges: Exchange[];
}

/** `v` is the value asked for; the other names are for the wordings. */
export type Item = { v: string; [name: string]: string };

/** Every item in every wording: `{k}` in a wording is item.k. Wording i is answered by answers[i % answers.length]. */
export function lookup(
  name: string,
  weight: number,
  items: readonly Item[],
  wordings: readonly string[],
  answers: readonly string[],
  options: { holdOut?: Topic["holdOut"]; followUp?: string } = {},
): Topic {
  const exchanges = items.flatMap((item, i) => {
    const wrongItem = { ...item, v: otherValue(items, i) };
    const followUp = options.followUp ? fill(options.followUp, item) : null;
    return wordings.map((wording, w): Exchange => {
      const answer = answers[w % answers.length]!;
      return {
        topic: name,
        question: fill(wording, item),
        answer: fill(answer, item),
        wrong: fill(answer, wrongItem),
        expected: item.v,
        item: `${name} ${Object.values(item).join(" ")}`,
        followUp,
      };
    });
  });
  return { name, weight, holdOut: options.holdOut ?? "wordings", exchanges };
}

/** Groups of questions that mean the same, each group with its answer. `wrongs` are given in turn. */
export function sayings(
  name: string,
  weight: number,
  groups: readonly (readonly [questions: readonly string[], answer: string, expected?: string])[],
  wrongs: readonly string[],
): Topic {
  let turn = 0;
  const exchanges = groups.flatMap(([questions, answer, expected]) =>
    questions.map((question): Exchange => ({
      topic: name,
      question,
      answer,
      wrong: wrongs[turn++ % wrongs.length]!,
      expected: expected ?? null,
      item: `${name} ${answer}`,
      followUp: null,
    })),
  );
  return { name, weight, holdOut: "wordings", exchanges };
}

/** "k: v" a line, to items. */
export const pairs = (text: string): Item[] =>
  text
    .split(";")
    .map((pair) => pair.trim().split(":"))
    .map(([k, v]) => ({ k: k!.trim(), v: v!.trim() }));

export const words = (text: string): string[] => text.trim().split(/\s+/);

const fill = (wording: string, item: Item): string =>
  capitalised(wording.replace(/\{(\w+)\}/g, (_, name: string) => item[name]!));

const capitalised = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** A value that another item has and this one has not: not a neighbour's, so that it is visibly wrong. */
function otherValue(items: readonly Item[], index: number): string {
  const { v } = items[index]!;
  for (let step = 7; step < 7 + items.length; step++) {
    const other = items[(index + step) % items.length]!.v;
    if (other !== v) return other;
  }
  throw new Error(`all items have the value ${v}`);
}
