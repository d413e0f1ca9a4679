/** The comparison of a study: the plan that is fixed before the first vote, the votes of people or simulated raters, a judge.
 *  Always: the plan's hash covers questions, answers and rules; votes of people are never thrown away by a later run. */
import { join } from "node:path";
import { outputsOf, runStage, writeWhole, type StageRecord } from "../../data/stages.ts";
import type { CurationReport } from "../../data/curation.ts";
import type { LeakReport } from "../../data/leak/leak_report.ts";
import type { Question } from "../../eval/comparison.ts";
import { judgePairs, type JudgeMessage } from "../../eval/judge.ts";
import { toJsonLines } from "../../eval/jsonl.ts";
import { simulateVotes } from "../../eval/simulate.ts";
import { gapForScore } from "../../eval/statistics/rater_model.ts";
import type { QuestionLeak, StudyPlan } from "../../eval/study_data.ts";
import { writeVotes } from "../../eval/votes_file.ts";
import { exportVotes } from "../../server/study/export_votes.ts";
import { importStudy, type Study } from "../../server/study/import_study.ts";
import { openStore } from "../../store/store.ts";
import { listStudies } from "../../store/studies.ts";
import type { Json } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { openApi } from "../api.ts";
import { defaultRunnerOptions } from "../../engine/load_runner.ts";
import { keyOf, type Answered } from "./answer.ts";
import type { TrainedModel } from "./material.ts";
import { studyDatabaseUrl } from "./study_database.ts";
import type { StudyRecipe } from "./study_recipe.ts";

export interface PlanOptions {
  study: StudyRecipe;
  folder: string;
  questions: readonly Question[];
  answered: readonly Answered[];
  trained: readonly TrainedModel[];
  /** sha256 of files that the study was made from. */
  hashes: Record<string, string>;
}

/** study.json and answers.jsonl; for people also the database that `koala study serve` opens. */
export async function planStage(options: PlanOptions): Promise<{ plan: StudyPlan; stage: StageRecord }> {
  const { study, folder, answered } = options;
  const plan = await planOf(options);
  const answers = answered.flatMap((one) => one.answers);
  const inputs: Json = [1, plan as unknown as Json, answered.map(({ stage }) => outputsOf(stage))];
  const stage = await runStage(folder, { name: "plan", inputs }, async () => {
    await writeWhole(join(folder, "study.json"), `${JSON.stringify(plan, null, 2)}\n`);
    await writeWhole(join(folder, "answers.jsonl"), toJsonLines(answers));
    return ["study.json", "answers.jsonl"];
  });
  if (study.raters === "people") await intoDatabase(options, plan);
  return { plan, stage };
}

async function planOf({
  study,
  folder,
  questions,
  answered,
  trained,
  hashes,
}: PlanOptions): Promise<StudyPlan> {
  const { comparison } = study;
  const simulated = study.raters === "simulated" ? " (simulated raters)" : "";
  const weights = trained.flatMap(({ id, weights: files }) =>
    Object.entries(files).map(([file, hash]) => [`weights of ${id}: ${file}`, hash] as const),
  );
  return {
    title: `${study.title}${simulated}`,
    questions,
    systems: study.systems.map(({ id, label }) => ({
      id,
      label: label ?? id,
      details: answered.find(({ system }) => system === id)?.details ?? {},
    })),
    pairs: study.pairs.map(({ a, b }) => [a, b] as const),
    seed: study.seed,
    raterRule: {
      goldShareMin: comparison.gold_share_min,
      medianDwellMsMin: comparison.median_dwell_ms_min,
    },
    commands: ["koala study RECIPE --out DIR"],
    hashes: { ...hashes, ...Object.fromEntries(weights) },
    topics: {},
    leaks: await leaksOf(study, folder, questions),
    flags: [],
  };
}

/** Questions that the leakage filters met; null where no model has such a filter. */
async function leaksOf(
  { models }: StudyRecipe,
  folder: string,
  questions: readonly Question[],
): Promise<QuestionLeak[] | null> {
  const known = new Set(questions.map(({ id }) => id));
  const found: QuestionLeak[] = [];
  let looked = false;
  for (const { id } of models) {
    const report = (await Bun.file(join(folder, "models", id, "report.json")).json()) as CurationReport;
    for (const { rule, report: own } of report.filters.rules) {
      if (rule !== "leakage") continue;
      looked = true;
      for (const { question, closest } of (own as LeakReport).rows)
        for (const [name, hit] of Object.entries(closest))
          if (hit.leaks && known.has(question))
            found.push({ question, rule: name, score: hit.score, source: `${id}: ${hit.dialogue}` });
    }
  }
  return looked ? found : null;
}

async function intoDatabase(
  { study, folder, questions, answered }: PlanOptions,
  plan: StudyPlan,
): Promise<void> {
  const { comparison } = study;
  const store = await openStore(studyDatabaseUrl(folder));
  try {
    const before = (await listStudies(store)) as Study[];
    const { instructions, consent, completion_url: completionUrl } = comparison;
    const { min_dwell_ms: minDwellMs, votes_per_minute: votesPerMinute } = comparison;
    const made = await importStudy(store, {
      title: plan.title,
      questions,
      systems: plan.systems.map(({ id }) => id),
      answers: answered.flatMap(({ answers }) => answers),
      pairs: plan.pairs,
      ratings: comparison.ratings,
      raters: comparison.raters,
      goldShare: comparison.gold_share,
      repeatShare: comparison.repeat_share,
      criteria: comparison.criteria,
      seed: study.seed,
      dropLeaks: comparison.drop_leaks,
      ...(instructions === undefined ? {} : { instructions }),
      ...(consent === undefined ? {} : { consent }),
      ...(completionUrl === undefined ? {} : { completionUrl }),
      ...(minDwellMs === undefined ? {} : { minDwellMs }),
      ...(votesPerMinute === undefined ? {} : { votesPerMinute }),
    });
    if (before.some(({ id }) => id !== made.id))
      throw new UsageError(
        `${folder} holds a study of other answers or rules already, perhaps with votes. Name another folder, or move its study.db away.`,
      );
  } finally {
    await store.close();
  }
}

export interface VoteState {
  stage: StageRecord;
  /** What people are still to give; 0 where nobody is asked. */
  missing: number;
}

/** votes.jsonl: simulated, none, or what people gave so far. */
export async function voteStage(
  study: StudyRecipe,
  folder: string,
  { plan, stage: planned }: { plan: StudyPlan; stage: StageRecord },
): Promise<VoteState> {
  const { ratings, raters, gold_share: goldShare, repeat_share: repeatShare } = study.comparison;
  const path = join(folder, "votes.jsonl");
  if (study.raters === "people") return peoplesVotes(study, folder, plan);
  const planted = study.pairs.map(({ planted_score: score }) => score ?? null);
  const inputs: Json = [
    1,
    outputsOf(planned),
    study.raters,
    planted,
    ratings,
    raters,
    goldShare,
    repeatShare,
  ];
  const stage = await runStage(folder, { name: "votes", inputs }, async () => {
    const votes =
      study.raters === "none"
        ? []
        : simulateVotes({
            questions: plan.questions,
            pairs: study.pairs.map(({ a, b, planted_score: score }) => ({
              pair: [a, b],
              gap: gapForScore(score!),
            })),
            raters,
            ratings,
            seed: study.seed,
            goldShare,
            repeatShare,
          });
    await writeVotes(path, votes);
    return ["votes.jsonl"];
  });
  return { stage, missing: 0 };
}

async function peoplesVotes(study: StudyRecipe, folder: string, plan: StudyPlan): Promise<VoteState> {
  const store = await openStore(studyDatabaseUrl(folder));
  try {
    const [only] = (await listStudies(store)) as Study[];
    const votes = await exportVotes(store, only!.id);
    const name = { name: "votes", inputs: [1, votes as unknown as Json] };
    const stage = await runStage(folder, name, async () => {
      await writeVotes(join(folder, "votes.jsonl"), votes);
      return ["votes.jsonl"];
    });
    const real = votes.filter(({ kind, criterion }) => kind === "real" && criterion === "overall").length;
    const wanted = plan.questions.length * plan.pairs.length * study.comparison.ratings;
    return { stage, missing: Math.max(0, wanted - real) };
  } finally {
    await store.close();
  }
}

/** judgements.jsonl, where the recipe has a judge. Throws where calls failed: the next run tries those again. */
export async function judgeStage(
  study: StudyRecipe,
  folder: string,
  { plan, answered, planned }: { plan: StudyPlan; answered: readonly Answered[]; planned: StageRecord },
): Promise<StageRecord | null> {
  const { judge } = study;
  if (!judge) return null;
  const { url, model, order, concurrency } = judge;
  const inputs: Json = [1, outputsOf(planned), url, model ?? null, order];
  return runStage(folder, { name: "judge", inputs }, async () => {
    const flags = { ...defaultRunnerOptions, device: "cpu", maxModelLen: undefined, cacheMemory: undefined };
    const api = await openApi(url, { ...flags, ...keyOf(judge.api_key_env) });
    const progress = new Progress("items");
    const ask = async (messages: JudgeMessage[]): Promise<string> => {
      let text = "";
      const body = { model: model ?? api.modelId, messages, temperature: 0, stream: true };
      for await (const { choices } of api.post("/v1/chat/completions", body))
        text += choices[0]?.delta?.content ?? "";
      return text;
    };
    const { questions, pairs, seed } = plan;
    const file = join(folder, "judging.jsonl");
    const judgements = await judgePairs({
      judge: model ?? api.modelId,
      questions,
      answers: answered.flatMap(({ answers }) => answers),
      pairs,
      ask,
      order,
      seed,
      concurrency,
      file,
      onProgress: (done, total) => progress.update("judging", done, total),
    });
    await api.close();
    const failed = judgements.filter(({ verdict, raw }) => verdict === null && raw === "");
    if (failed.length > 0)
      throw new UsageError(
        `${failed.length} of ${judgements.length} calls of the judge failed, the first with: ${failed[0]!.error} The same command tries them again.`,
      );
    await writeWhole(join(folder, "judgements.jsonl"), toJsonLines(judgements));
    return ["judgements.jsonl"];
  });
}
