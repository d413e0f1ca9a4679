/** What raters' pages and the arena send and get. Nothing in an answer before the vote names a system. */
import { z } from "zod";
import { flagCategories } from "../../store/flags.ts";
import { optional } from "./common.ts";

export const choiceSchema = z.enum(["left", "right", "tie", "both_bad"]);

const noteSchema = optional(z.string().max(2000), "What the rater wants to say about this.");
const idSchema = z.string().min(1).max(60);
const workerSchema = z.string().min(1).max(200);

export const beginRequestSchema = z
  .strictObject({
    consent: z.literal(true).describe("The rater has read what is stored and agrees."),
    worker_id: optional(
      workerSchema,
      "Mechanical Turk's workerId: who comes again goes on where they stopped.",
    ),
    assignment_id: optional(workerSchema, "Mechanical Turk's assignmentId."),
    turk_submit_to: optional(z.string().max(200), "Mechanical Turk's turkSubmitTo."),
    prolific_pid: optional(workerSchema, "Prolific's PROLIFIC_PID."),
  })
  .meta({ id: "StudyBeginRequest" });
export type BeginRequest = z.output<typeof beginRequestSchema>;

export const beginSchema = z
  .object({ code: z.string().describe("The rater's own code from now on.") })
  .meta({ id: "StudyBegin" });

const progressFields = { done: z.int(), total: z.int() };
export const progressSchema = z.object(progressFields).meta({ id: "StudyProgress" });

export const studyStateSchema = z
  .object({
    title: z.string(),
    instructions: z.string(),
    consent: z.string(),
    criteria: z.array(z.object({ name: z.string(), question: z.string() })),
    open: z.boolean().describe("Anybody may use this code; each gets one of their own."),
    consented: z.boolean(),
    ...progressFields,
  })
  .meta({ id: "StudyState" });

const voteFields = {
  choice: choiceSchema.describe("Overall."),
  criteria: z.record(z.string().max(100), choiceSchema),
};

const taskSchema = z
  .object({
    id: z.string(),
    number: z.int(),
    question: z.string(),
    left: z.string(),
    right: z.string(),
    wait_ms: z.int().describe("Votes are taken after this."),
    vote: z.object({ ...voteFields, note: z.string().nullable() }).nullable(),
  })
  .meta({ id: "StudyTask" });
export { taskSchema };

export const nextTaskSchema = z
  .object({ task: taskSchema.nullable(), progress: progressSchema })
  .meta({ id: "StudyNextTask" });

export const nextRequestSchema = z.strictObject({}).meta({ id: "StudyNextRequest" });

export const voteRequestSchema = z
  .strictObject({
    item: idSchema,
    choice: voteFields.choice,
    criteria: optional(voteFields.criteria, "By the criterion's name; any may be left out."),
    note: noteSchema,
    dwell_ms: optional(z.int().min(0).max(86_400_000), "How long the item was to be seen."),
  })
  .meta({ id: "StudyVoteRequest" });

const flagFields = {
  side: z.enum(["left", "right"]),
  category: z.enum(flagCategories),
  note: noteSchema,
};
export const flagRequestSchema = z
  .strictObject({ item: idSchema, ...flagFields })
  .meta({ id: "StudyFlagRequest" });
export const flaggedSchema = z.object({ reported: z.literal(true) }).meta({ id: "Flagged" });

export const completionSchema = z
  .object({
    code: z.string(),
    url: z.string().nullable(),
    submit: z.object({ url: z.string(), fields: z.record(z.string(), z.string()) }).nullable(),
  })
  .meta({ id: "StudyCompletion" });

export const battleRequestSchema = z
  .strictObject({
    prompt: z.string().trim().min(1).max(12_000),
    rater: optional(z.string().regex(/^[\w-]{8,64}$/), "A random name that the visitor's page made up."),
  })
  .meta({ id: "BattleRequest" });
export type BattleRequest = z.output<typeof battleRequestSchema>;

export const battleChunkSchema = z
  .object({
    battle: z.string().optional().describe("First: the battle's id."),
    side: z.enum(["left", "right"]).optional(),
    text: z.string().optional(),
    finish: z.string().optional().describe("This side has ended: stop, length or error."),
    ended: z.literal(true).optional().describe("Last: votes are taken."),
  })
  .meta({ id: "BattleChunk" });
export type BattleChunk = z.output<typeof battleChunkSchema>;

export const battleVoteRequestSchema = z
  .strictObject({
    choice: choiceSchema,
    dwell_ms: optional(z.int().min(0).max(86_400_000), "Since the end."),
  })
  .meta({ id: "BattleVoteRequest" });

export const revealSchema = z
  .object({
    left: z.string(),
    right: z.string(),
    counted: z.boolean().describe("False: an answer failed or told who wrote it."),
    leaks: z.array(z.string()),
  })
  .meta({ id: "BattleReveal" });

export const battleFlagRequestSchema = z.strictObject(flagFields).meta({ id: "BattleFlagRequest" });

export const leaderboardSchema = z
  .object({
    systems: z.array(
      z.object({
        system: z.string(),
        battles: z.int(),
        wins: z.int(),
        ties: z.int(),
        losses: z.int(),
        rating: z.number().nullable().describe("Bradley–Terry on the Elo scale, mean 1000."),
        interval: z.tuple([z.number(), z.number()]).nullable().describe("95 %, by resampling battles."),
      }),
    ),
    refusal: z.string().nullable().describe("Why there are no ratings."),
  })
  .meta({ id: "Leaderboard" });
