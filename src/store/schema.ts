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

  return { apiKeys, files, uploads, uploadParts, jobs, jobEvents, jobCheckpoints, models };
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
