/** The leakage filter's speed: 180 questions against 400 000 generated user turns, `bun bench/leak.bench.ts [TURNS]`.
 *  Prints CPU seconds of each rule alone and of all together, and what all-pairs sentence BLEU would take, extrapolated from a
 *  sample in the same run, whose scores are compared with the index's at the same time. Every second planted copy stands
 *  inside a longer turn; there questions of fewer than eight words are not looked for, so some of those stay unfound. */
import { sentenceBleu } from "../src/data/leak/bleu.ts";
import { LeakIndex, leakRules, type LeakRule } from "../src/data/leak/leak_index.ts";
import type { Question } from "../src/data/question_sets.ts";
import { uniform } from "../src/util/rng.ts";

const turnCount = Number(process.argv[2] ?? 400_000);
const questionCount = 180;
const plantedEvery = 2000;

/** Zipf's law over made-up words, in chains: a word has few successors, so that n-grams repeat as they do in language. */
const syllables = "ka lo mi ran te su bel or in gra po fe du shi wan el to cra ni ve".split(" ");
const word = (rank: number): string => {
  let text = "";
  for (let rest = rank + 1; rest > 0; rest = Math.floor(rest / syllables.length))
    text += syllables[rest % syllables.length]!;
  return text;
};
const vocabulary = Array.from({ length: 20_000 }, (_, rank) => word(rank));
const zipf = (draw: number): number => Math.floor(vocabulary.length ** draw) - 1;

function text(seed: number, stream: number): string {
  const draw = (index: number): number => uniform(seed, stream * 4096 + index);
  const length = Math.min(Math.round(4 * Math.exp(4 * draw(0) ** 1.3)), 1500);
  const words: string[] = [];
  let rank = zipf(draw(1));
  for (let i = 0; i < length; i++) {
    words.push(vocabulary[rank]! + (i % 11 === 10 ? "." : i % 7 === 6 ? "," : ""));
    // Half of the words follow from the one before.
    rank =
      draw(2 * i + 2) < 0.5 ? (rank * 31 + Math.floor(draw(2 * i + 3) * 3)) % 500 : zipf(draw(2 * i + 3));
  }
  return `${words.join(" ")}?`;
}

const questions = Array.from({ length: questionCount }, (_, i): Question => ({
  id: `made/${i}`,
  set: "made",
  text: text(1, i),
}));
const turns = Array.from({ length: turnCount }, (_, i) => {
  if (i % plantedEvery !== 0) return text(2, i);
  const copy = questions[(i / plantedEvery) % questionCount]!.text;
  return (i / plantedEvery) % 2 === 0 ? copy : `${text(3, i)} ${copy} ${text(4, i)}`;
});

const cpuSeconds = (run: () => void): number => {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
};

function scan(rules: readonly LeakRule[]): void {
  let leaks = 0;
  const planted = new Set<number>();
  const seconds = cpuSeconds(() => {
    const index = LeakIndex.build(questions, { rules });
    turns.forEach((turn, i) => {
      if (!index.check(turn).some((hit) => hit.leaks)) return;
      leaks++;
      if (i % plantedEvery === 0) planted.add(i);
    });
  });
  console.log(
    `${rules.join(" + ").padEnd(52)} ${seconds.toFixed(1).padStart(7)} CPU s  ${Math.round(turnCount / seconds)} turns/s  ${leaks} leaks, of ${Math.ceil(turnCount / plantedEvery)} planted ${planted.size}`,
  );
}

const characters = turns.reduce((sum, turn) => sum + turn.length, 0);
console.log(`${questionCount} questions, ${turnCount} turns, ${(characters / 1e6).toFixed(0)} M characters`);
for (const rule of leakRules) scan([rule]);
scan(["bleu", "containment-8"]);
scan(leakRules);

const sample = Array.from({ length: 60 }, (_, i) => turns[Math.floor((i * turnCount) / 60)]!);
const index = LeakIndex.build(questions, { rules: ["bleu"], minTokens: 1 });
let wrong = 0;
const seconds = cpuSeconds(() => {
  for (const turn of sample) {
    const hits = new Map(index.check(turn).map(({ question, score }) => [question.id, score]));
    for (const { id, text: query } of questions) {
      const score = sentenceBleu(query, turn);
      if ((score > 20 ? score : undefined) !== hits.get(id)) wrong++;
    }
  }
});
const pairs = sample.length * questionCount;
const all = (seconds / pairs) * questionCount * turnCount;
console.log(
  `all-pairs sentence BLEU: ${pairs} pairs in ${seconds.toFixed(1)} CPU s, extrapolated to ${(all / 3600).toFixed(1)} CPU h; pairs that the index scores otherwise: ${wrong}`,
);
