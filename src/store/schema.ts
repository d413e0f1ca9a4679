/** The tables, defined once for SQLite and PostgreSQL.
 *  `define` names every column through a kit of helpers, of which each dialect has one: a new table is written once,
 *  a new kind of column is one line in each kit. Rows have the same TypeScript types on both.
 *  After a change here, `bunx --bun drizzle-kit generate --config migrations/sqlite.config.ts` and the same with
 *  postgres.config.ts write the next migrations; those that were published are never edited. */
import {
  bigint as pgBigint,
  customType as pgCustomType,
  index as pgIndex,
  pgTable,
  text as pgText,
  timestamp as pgTimestamp,
  uniqueIndex as pgUniqueIndex,
} from "drizzle-orm/pg-core";
import {
  customType as sqliteCustomType,
  index as sqliteIndex,
  integer,
  sqliteTable,
  text,
  uniqueIndex as sqliteUniqueIndex,
} from "drizzle-orm/sqlite-core";

export function define(kit: Kit) {
  /** Keys that `koala keys` made. The secret itself is never here. */
  const apiKeys = kit.table("api_keys", {
    id: kit.id("id"),
    /** Stays taken after the key is revoked, so that logs and lists never speak of two keys by one name. */
    name: kit.text("name").notNull().unique(),
    /** Of the whole secret, in hexadecimal. */
    sha256: kit.text("sha256").notNull().unique(),
    /** The first characters after `sk-koala-`, by which a person recognises the key. */
    prefix: kit.text("prefix").notNull(),
    createdAt: kit.time("created_at").notNull(),
    revokedAt: kit.time("revoked_at"),
    /** Exact to a minute. */
    lastUsedAt: kit.time("last_used_at"),
  });

  /** Files of the API; the bytes lie under the data directory by the row's id. */
  const files = kit.table(
    "files",
    {
      id: kit.id("id"),
      filename: kit.text("filename").notNull(),
      purpose: kit.text("purpose").notNull(),
      bytes: kit.number("bytes").notNull(),
      createdAt: kit.time("created_at").notNull(),
      expiresAt: kit.time("expires_at"),
    },
    (table) => [kit.index("files_created").on(table.createdAt, table.id)],
  );

  /** Files on their way, in parts. */
  const uploads = kit.table("uploads", {
    id: kit.id("id"),
    filename: kit.text("filename").notNull(),
    purpose: kit.text("purpose").notNull(),
    mimeType: kit.text("mime_type").notNull(),
    /** What the finished file must have. */
    bytes: kit.number("bytes").notNull(),
    /** pending, completed or cancelled; expired is told from the time. */
    status: kit.text("status").notNull(),
    createdAt: kit.time("created_at").notNull(),
    expiresAt: kit.time("expires_at").notNull(),
    /** Seconds that the file lives after it was made. */
    fileSeconds: kit.number("file_seconds"),
    fileId: kit.text("file_id"),
  });

  const uploadParts = kit.table(
    "upload_parts",
    {
      id: kit.id("id"),
      uploadId: kit.text("upload_id").notNull(),
      bytes: kit.number("bytes").notNull(),
      createdAt: kit.time("created_at").notNull(),
    },
    (table) => [kit.index("upload_parts_upload").on(table.uploadId)],
  );

  /** Fine-tuning jobs: what should run, runs, ended. */
  const jobs = kit.table(
    "jobs",
    {
      id: kit.id("id"),
      createdAt: kit.time("created_at").notNull(),
      finishedAt: kit.time("finished_at"),
      status: kit.text("status").notNull(),
      /** As the request named it. */
      model: kit.text("model").notNull(),
      /** Of whoever may run the job: the base's folder and template, never shown. */
      source: kit.json("source").notNull(),
      trainingFile: kit.text("training_file").notNull(),
      validationFile: kit.text("validation_file"),
      suffix: kit.text("suffix"),
      seed: kit.number("seed").notNull(),
      /** The request's method with its hyperparameters. */
      method: kit.json("method").notNull(),
      /** What "auto" became; null until the data has been read. */
      resolved: kit.json("resolved"),
      metadata: kit.json("metadata"),
      error: kit.json("error"),
      fineTunedModel: kit.text("fine_tuned_model"),
      resultFile: kit.text("result_file"),
      trainedTokens: kit.number("trained_tokens"),
      /** Of the last step. */
      step: kit.number("step").notNull(),
      steps: kit.number("steps"),
      estimatedFinish: kit.time("estimated_finish"),
      /** How many events there are: the number of the next one. */
      eventCount: kit.number("event_count").notNull(),
      /** The process that runs it, by a token of its own, and until when it is believed to live. */
      leaseOwner: kit.text("lease_owner"),
      leaseUntil: kit.time("lease_until"),
      /** Processes in a row that died without getting further than `deathStep`. */
      deaths: kit.number("deaths").notNull(),
      deathStep: kit.number("death_step").notNull(),
    },
    (table) => [
      kit.index("jobs_created").on(table.createdAt, table.id),
      kit.index("jobs_status").on(table.status),
    ],
  );

  const jobEvents = kit.table(
    "job_events",
    {
      id: kit.id("id"),
      jobId: kit.text("job_id").notNull(),
      /** From 0, in the order they happened. */
      number: kit.number("number").notNull(),
      createdAt: kit.time("created_at").notNull(),
      level: kit.text("level").notNull(),
      type: kit.text("type").notNull(),
      message: kit.text("message").notNull(),
      data: kit.json("data").notNull(),
      /** The training step, for metrics. */
      step: kit.number("step"),
    },
    (table) => [kit.uniqueIndex("job_events_number").on(table.jobId, table.number)],
  );

  const jobCheckpoints = kit.table(
    "job_checkpoints",
    {
      id: kit.id("id"),
      jobId: kit.text("job_id").notNull(),
      step: kit.number("step").notNull(),
      createdAt: kit.time("created_at").notNull(),
      model: kit.text("model").notNull(),
      metrics: kit.json("metrics").notNull(),
    },
    (table) => [kit.uniqueIndex("job_checkpoints_step").on(table.jobId, table.step)],
  );

  /** Models that jobs made: servable folders under the data directory. */
  const models = kit.table("models", {
    /** "ft:base:org:suffix:id", with ":ckpt-step-N" for a checkpoint. */
    id: kit.id("id"),
    jobId: kit.text("job_id").notNull(),
    /** The model it was tuned from. */
    parent: kit.text("parent").notNull(),
    /** Relative to the data directory. */
    folder: kit.text("folder").notNull(),
    /** A chat template's name where it is not the folder's own. */
    template: kit.text("template"),
    createdAt: kit.time("created_at").notNull(),
  });

  /** Blind comparisons: which systems, which questions, and what was asked of the raters. */
  const studies = kit.table("studies", {
    id: kit.id("id"),
    title: kit.text("title").notNull(),
    /** What the study was made from has this hash: made twice, it is there once. */
    sha256: kit.text("sha256").notNull().unique(),
    /** From which invite codes, completion codes and seeds are derived; never shown. */
    secret: kit.text("secret").notNull(),
    /** The hash of the invite code that anybody may use. */
    openHash: kit.text("open_hash").notNull().unique(),
    config: kit.json("config").notNull(),
    createdAt: kit.time("created_at").notNull(),
  });

  const studyQuestions = kit.table(
    "study_questions",
    {
      id: kit.id("id"),
      studyId: kit.text("study_id").notNull(),
      /** `<set>/<id>` */
      question: kit.text("question").notNull(),
      set: kit.text("set").notNull(),
      text: kit.text("text").notNull(),
    },
    (table) => [kit.uniqueIndex("study_questions_question").on(table.studyId, table.question)],
  );

  const studyAnswers = kit.table(
    "study_answers",
    {
      id: kit.id("id"),
      studyId: kit.text("study_id").notNull(),
      question: kit.text("question").notNull(),
      system: kit.text("system").notNull(),
      text: kit.text("text").notNull(),
      finish: kit.text("finish").notNull(),
      /** Words that tell who wrote it. */
      leaks: kit.json("leaks").notNull(),
    },
    (table) => [kit.uniqueIndex("study_answers_answer").on(table.studyId, table.question, table.system)],
  );

  /** A pair of systems on a question, with the two answers that are shown: of golds, not always their own. */
  const studyItems = kit.table(
    "study_items",
    {
      id: kit.id("id"),
      studyId: kit.text("study_id").notNull(),
      question: kit.text("question").notNull(),
      systemA: kit.text("system_a").notNull(),
      systemB: kit.text("system_b").notNull(),
      answerA: kit.text("answer_a").notNull(),
      answerB: kit.text("answer_b").notNull(),
      /** real or gold; repeats are assignments of real ones. */
      kind: kit.text("kind").notNull(),
      expected: kit.text("expected"),
      /** Which system the first of its raters sees on the left. */
      firstLeft: kit.text("first_left").notNull(),
    },
    (table) => [kit.index("study_items_study").on(table.studyId)],
  );

  const studyRaters = kit.table(
    "study_raters",
    {
      id: kit.id("id"),
      studyId: kit.text("study_id").notNull(),
      inviteHash: kit.text("invite_hash").notNull().unique(),
      /** invite, open, mturk, prolific: how the rater came. */
      platform: kit.text("platform").notNull(),
      /** What the platform wants back with the completion code; null for other raters. */
      submit: kit.json("submit"),
      createdAt: kit.time("created_at").notNull(),
      consentAt: kit.time("consent_at"),
      lastSeenAt: kit.time("last_seen_at"),
    },
    (table) => [kit.index("study_raters_study").on(table.studyId)],
  );

  const studyAssignments = kit.table(
    "study_assignments",
    {
      id: kit.id("id"),
      studyId: kit.text("study_id").notNull(),
      itemId: kit.text("item_id").notNull(),
      raterId: kit.text("rater_id").notNull(),
      /** real, gold or repeat */
      kind: kit.text("kind").notNull(),
      left: kit.text("left").notNull(),
      /** The rater's own order, from 0. */
      number: kit.number("number").notNull(),
      shownAt: kit.time("shown_at"),
      votedAt: kit.time("voted_at"),
      /** The rater left before voting: the item is somebody else's again. */
      expiredAt: kit.time("expired_at"),
    },
    (table) => [kit.index("study_assignments_study").on(table.studyId, table.raterId)],
  );

  /** Rows are only added. Of an assignment's rows for a criterion the last one counts. */
  const studyVotes = kit.table(
    "study_votes",
    {
      id: kit.id("id"),
      studyId: kit.text("study_id").notNull(),
      assignmentId: kit.text("assignment_id").notNull(),
      criterion: kit.text("criterion").notNull(),
      /** From 0 for an assignment and criterion. */
      number: kit.number("number").notNull(),
      /** By system, not by side: a, b, tie, both_bad. */
      verdict: kit.text("verdict").notNull(),
      dwellMs: kit.number("dwell_ms"),
      note: kit.text("note"),
      createdAt: kit.time("created_at").notNull(),
    },
    (table) => [
      kit.index("study_votes_study").on(table.studyId),
      kit.uniqueIndex("study_votes_number").on(table.assignmentId, table.criterion, table.number),
    ],
  );

  /** Two served models on a visitor's prompt; who they are is told after the vote. */
  const battles = kit.table(
    "battles",
    {
      id: kit.id("id"),
      prompt: kit.text("prompt").notNull(),
      systemA: kit.text("system_a").notNull(),
      systemB: kit.text("system_b").notNull(),
      left: kit.text("left").notNull(),
      answerA: kit.text("answer_a").notNull(),
      answerB: kit.text("answer_b").notNull(),
      finishA: kit.text("finish_a").notNull(),
      finishB: kit.text("finish_b").notNull(),
      /** Words that tell who wrote an answer. */
      leaks: kit.json("leaks").notNull(),
      verdict: kit.text("verdict"),
      dwellMs: kit.number("dwell_ms"),
      rater: kit.text("rater").notNull(),
      createdAt: kit.time("created_at").notNull(),
      endedAt: kit.time("ended_at"),
      votedAt: kit.time("voted_at"),
    },
    (table) => [kit.index("battles_created").on(table.createdAt)],
  );

  /** Answers that somebody found alarming. */
  const flags = kit.table(
    "flags",
    {
      id: kit.id("id"),
      /** chat, study or arena */
      source: kit.text("source").notNull(),
      /** The study's answer, the arena's battle, or null. */
      reference: kit.text("reference"),
      model: kit.text("model"),
      prompt: kit.text("prompt"),
      answer: kit.text("answer").notNull(),
      category: kit.text("category").notNull(),
      note: kit.text("note"),
      /** open or reviewed */
      state: kit.text("state").notNull(),
      createdAt: kit.time("created_at").notNull(),
      reviewedAt: kit.time("reviewed_at"),
      review: kit.text("review"),
    },
    (table) => [kit.index("flags_created").on(table.createdAt, table.id)],
  );

  const comparison = {
    studies,
    studyQuestions,
    studyAnswers,
    studyItems,
    studyRaters,
    studyAssignments,
    studyVotes,
  };
  return {
    apiKeys,
    files,
    uploads,
    uploadParts,
    jobs,
    jobEvents,
    jobCheckpoints,
    models,
    ...comparison,
    battles,
    flags,
  };
}

interface JsonColumn {
  data: unknown;
  driverData: string;
}

/** Text on both: with PostgreSQL's jsonb the two drivers disagree on who writes the quotes. */
const jsonColumn = {
  dataType: () => "text",
  toDriver: (value: unknown) => JSON.stringify(value),
  fromDriver: (text: string) => JSON.parse(text) as unknown,
};

const sqliteKit = {
  table: sqliteTable,
  id: (name: string) => text(name).primaryKey(),
  text: (name: string) => text(name),
  /** A Date, exact to a millisecond. */
  time: (name: string) => integer(name, { mode: "timestamp_ms" }),
  /** An integer, exact up to 2^53. */
  number: (name: string) => integer(name),
  /** Anything that JSON can hold. */
  json: sqliteCustomType<JsonColumn>(jsonColumn),
  index: sqliteIndex,
  uniqueIndex: sqliteUniqueIndex,
};

type Kit = typeof sqliteKit;

// The cast is what makes one schema of two: drizzle's builders have the same methods, but types that share nothing.
const postgresKit = {
  table: pgTable,
  id: (name: string) => pgText(name).primaryKey(),
  text: (name: string) => pgText(name),
  time: (name: string) => pgTimestamp(name, { withTimezone: true, precision: 3 }),
  number: (name: string) => pgBigint(name, { mode: "number" }),
  json: pgCustomType<JsonColumn>(jsonColumn),
  index: pgIndex,
  uniqueIndex: pgUniqueIndex,
} as unknown as Kit;

export const sqliteTables = define(sqliteKit);
export const postgresTables = define(postgresKit);
export type Tables = typeof sqliteTables;
