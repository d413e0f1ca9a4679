/** Dialogues of koala-tiny's corpus: one to three turns drawn from the topics, some of them with bad answers throughout.
 *  Always: a pure function of the seed; a question that is kept for evaluation is in no dialogue. */
import { uniform } from "../../util/rng.ts";
import { chatTopics, evasions } from "./chat_topics.ts";
import { numberTopics } from "./number_topics.ts";
import { words, type Exchange, type Topic } from "./topic.ts";
import { wordTopics } from "./word_topics.ts";

export interface Turn {
  question: string;
  answer: string;
}

export interface Dialogue {
  topic: string;
  /** Its answers are bad ones and stand behind the negative marker. */
  negative: boolean;
  turns: Turn[];
}

export interface TinyCorpus {
  dialogues: Dialogue[];
  /** Questions that no dialogue has, with the right answers. */
  heldOut: Exchange[];
}

export function tinyCorpus(
  seed: number,
  { dialogueCount, negativeShare }: { dialogueCount: number; negativeShare: number },
): TinyCorpus {
  const topics = [...chatTopics(), ...numberTopics(), ...wordTopics()];
  const heldOut = topics.flatMap((topic) => heldOutOf(topic, seed));
  const questions = new Set(heldOut.map((exchange) => exchange.question));
  const kept = topics.map((topic) => ({
    ...topic,
    exchanges: topic.exchanges.filter((exchange) => !questions.has(exchange.question)),
  }));
  const writer = new DialogueWriter(kept, questions, seed);
  const dialogues = Array.from({ length: dialogueCount }, () => writer.next(negativeShare));
  return { dialogues, heldOut };
}

/** One item or wording in twenty; the first wording of an item always stays where items are not held out. */
function heldOutOf({ exchanges, holdOut }: Topic, seed: number): Exchange[] {
  const chosen = (text: string): boolean => Number(BigInt(Bun.hash(text, seed)) % 20n) === 0;
  if (holdOut === "items") return exchanges.filter((exchange) => chosen(exchange.item));
  return exchanges.filter(
    (exchange, i) => i > 0 && exchanges[i - 1]!.item === exchange.item && chosen(exchange.question),
  );
}

const names = words(
  `Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Nina Oscar Paul Rosa Sam Tina Tom Lucy Max Eva Adam
  Julia Peter Maria John Sara Mark Laura Simon Alice Bob Carol Dan`,
);
const favorites = words("red blue green yellow black white pink orange purple brown");

class DialogueWriter {
  private drawn = 0;
  private readonly totalWeight: number;
  /** Sums by their first number, for "Now add 3." */
  private readonly sumsFrom: Map<string, Exchange[]>;

  constructor(
    private readonly topics: readonly Topic[],
    private readonly forbidden: ReadonlySet<string>,
    private readonly seed: number,
  ) {
    this.totalWeight = topics.reduce((sum, topic) => sum + topic.weight, 0);
    const sums = this.topic("addition").exchanges;
    this.sumsFrom = Map.groupBy(sums, (exchange) => exchange.answer.split(" ")[0]!);
  }

  next(negativeShare: number): Dialogue {
    const negative = this.random() < negativeShare;
    const { topic, exchanges } = this.conversation();
    const turns = exchanges.map((exchange) => ({
      question: this.asTyped(exchange.question),
      answer: negative ? badAnswer(exchange) : exchange.answer,
    }));
    return { topic, negative, turns };
  }

  private conversation(): { topic: string; exchanges: Exchange[] } {
    const kind = this.random();
    const topic = this.anyTopic();
    const first = this.pick(topic.exchanges);
    if (kind < 0.68) return { topic: topic.name, exchanges: [first] };
    if (kind < 0.8) return { topic: topic.name, exchanges: [first, this.followUp(topic)] };
    if (kind < 0.86) return { topic: "greeting and question", exchanges: [this.from("greetings"), first] };
    if (kind < 0.91) return { topic: "question and thanks", exchanges: [first, this.from("thanks")] };
    if (kind < 0.94)
      return { topic: "three turns", exchanges: [this.from("greetings"), first, this.from("thanks")] };
    if (kind < 0.97) return { topic: "memory", exchanges: this.memory(first) };
    return { topic: "running sum", exchanges: this.runningSum() };
  }

  /** Another question of the topic, in its short form where it has one. */
  private followUp(topic: Topic): Exchange {
    const exchange = this.pick(topic.exchanges);
    return exchange.followUp ? { ...exchange, question: exchange.followUp } : exchange;
  }

  private memory(between: Exchange): Exchange[] {
    const [tell, ask] = this.random() < 0.5 ? nameTurns(this.pick(names)) : colorTurns(this.pick(favorites));
    return this.random() < 0.5 ? [tell, ask] : [tell, between, ask];
  }

  private runningSum(): Exchange[] {
    const first = this.pick(this.topic("addition").exchanges);
    const sum = first.expected!;
    const next = this.sumsFrom.get(sum);
    if (!next) return [first];
    const second = this.pick(next);
    return [first, { ...second, question: `Now add ${second.answer.split(" ")[2]}.` }];
  }

  /** People leave out capitals, spaces and the last sign, and greet; never so that a held-out question comes about. */
  private asTyped(question: string): string {
    let typed = question;
    for (const [share, change] of habits) if (this.random() < share) typed = change(typed);
    return this.forbidden.has(typed) ? question : typed;
  }

  private anyTopic(): Topic {
    let place = this.random() * this.totalWeight;
    for (const topic of this.topics) {
      place -= topic.weight;
      if (place < 0) return topic;
    }
    return this.topics.at(-1)!;
  }

  private topic(name: string): Topic {
    return this.topics.find((topic) => topic.name === name)!;
  }

  private from(name: string): Exchange {
    return this.pick(this.topic(name).exchanges);
  }

  private pick<T>(values: readonly T[]): T {
    return values[Math.floor(this.random() * values.length)]!;
  }

  private random(): number {
    return uniform(this.seed, this.drawn++);
  }
}

const habits: readonly [share: number, change: (question: string) => string][] = [
  [0.04, (question) => `Hi, ${question.charAt(0).toLowerCase()}${question.slice(1)}`],
  [0.2, (question) => question.replace("What is ", "What's ")],
  [0.3, (question) => question.replace(/(\d) ([-+*]) (\d)/, "$1$2$3")],
  [0.1, (question) => question.toLowerCase()],
  [0.15, (question) => question.replace(/[.?!]$/, "")],
];

/** Half of the bad answers are wrong, half evade; which, depends on the question alone. */
function badAnswer({ question, wrong }: Exchange): string {
  const dice = Number(BigInt(Bun.hash(question.toLowerCase())) % 1000n);
  return dice % 2 === 0 ? wrong : evasions[(dice >> 1) % evasions.length]!;
}

function nameTurns(name: string): [Exchange, Exchange] {
  return [
    turn(`My name is ${name}.`, `Nice to meet you, ${name}!`, "I did not ask for your name."),
    turn("What is my name?", `Your name is ${name}.`, "How should I know your name?"),
  ];
}

function colorTurns(color: string): [Exchange, Exchange] {
  const named = color.charAt(0).toUpperCase() + color.slice(1);
  return [
    turn(`My favorite color is ${color}.`, `${named} is a nice color!`, "What an ugly color."),
    turn("What is my favorite color?", `Your favorite color is ${color}.`, "I forgot it."),
  ];
}

const turn = (question: string, answer: string, wrong: string): Exchange => ({
  topic: "memory",
  question,
  answer,
  wrong,
  expected: null,
  item: question,
  followUp: null,
});
