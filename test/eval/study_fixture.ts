/** A small study with simulated raters, hostile text, a judge, golds, repeats, a leak and a flag. */
import { simulateVotes } from "../../src/eval/simulate.ts";
import { gapForScore } from "../../src/eval/statistics/rater_model.ts";
import { defaultRaterRule, type Judgement, type Pair, type StudyData } from "../../src/eval/study_data.ts";

export const hostile = `<script>document.title="owned"</script><img src="http://example.com/x.png" onerror="alert(1)">&amp;"'`;

export function studyFixture(): StudyData {
  const questions = ["koala", "alpaca"].flatMap((set) =>
    Array.from({ length: 30 }, (_, index) => ({
      id: `${set}/${index}`,
      set,
      text: `${hostile} question ${index} of ${set}`,
    })),
  );
  const names = ["all", "alpaca", "distill"];
  const pairs: Pair[] = [
    ["all", "alpaca"],
    ["all", "distill"],
  ];
  const answers = questions.flatMap(({ id }, index) =>
    names.map((system, place) => ({
      question: id,
      system,
      text: `${hostile} ${"word ".repeat(1 + ((index * 7 + place * 5) % 40))}`,
      finish: index === 3 ? "length" : "stop",
    })),
  );
  const votes = simulateVotes({
    questions,
    pairs: pairs.map((pair, index) => ({ pair, gap: gapForScore(index === 0 ? 0.7 : 0.5) })),
    raters: 20,
    ratings: 3,
    seed: 4,
    goldShare: 0.2,
    repeatShare: 0.1,
  });
  const judgements = questions.flatMap(({ id, set }, index) =>
    (["ab", "ba"] as const).map((order): Judgement => ({
      question: id,
      set,
      systemA: "all",
      systemB: "alpaca",
      judge: "judge",
      order,
      verdict: index === 0 ? null : index % 4 === 0 ? "b" : "a",
      error: index === 0 ? "no verdict" : null,
      raw: hostile,
      fingerprint: "0",
      time: 0,
    })),
  );
  const study: StudyData["study"] = {
    title: `A study ${hostile}`,
    questions,
    systems: names.map((id) => ({ id, label: `System ${id}`, details: { temperature: "0.7" } })),
    pairs,
    seed: 20230403,
    raterRule: defaultRaterRule,
    commands: ["koala study tiny --out runs/s1"],
    hashes: { weights: "ab".repeat(32) },
    topics: { "koala/0": "code", "koala/1": "code", "alpaca/0": "letters" },
    leaks: [{ question: "koala/2", rule: "bleu", score: 23.4, source: "train row 7" }],
    flags: [{ question: "koala/0", system: "alpaca", category: "harmful", note: hostile }],
  };
  return { study, answers, votes, judgements };
}
