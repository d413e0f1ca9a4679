CREATE TABLE "studies" (
	"id" text PRIMARY KEY NOT NULL,
	"title" text NOT NULL,
	"sha256" text NOT NULL,
	"secret" text NOT NULL,
	"open_hash" text NOT NULL,
	"config" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "studies_sha256_unique" UNIQUE("sha256"),
	CONSTRAINT "studies_open_hash_unique" UNIQUE("open_hash")
);
--> statement-breakpoint
CREATE TABLE "study_questions" (
	"id" text PRIMARY KEY NOT NULL,
	"study_id" text NOT NULL,
	"question" text NOT NULL,
	"set" text NOT NULL,
	"text" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "study_answers" (
	"id" text PRIMARY KEY NOT NULL,
	"study_id" text NOT NULL,
	"question" text NOT NULL,
	"system" text NOT NULL,
	"text" text NOT NULL,
	"finish" text NOT NULL,
	"leaks" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "study_items" (
	"id" text PRIMARY KEY NOT NULL,
	"study_id" text NOT NULL,
	"question" text NOT NULL,
	"system_a" text NOT NULL,
	"system_b" text NOT NULL,
	"answer_a" text NOT NULL,
	"answer_b" text NOT NULL,
	"kind" text NOT NULL,
	"expected" text,
	"first_left" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "study_raters" (
	"id" text PRIMARY KEY NOT NULL,
	"study_id" text NOT NULL,
	"invite_hash" text NOT NULL,
	"platform" text NOT NULL,
	"submit" text,
	"created_at" timestamp (3) with time zone NOT NULL,
	"consent_at" timestamp (3) with time zone,
	"last_seen_at" timestamp (3) with time zone,
	CONSTRAINT "study_raters_invite_hash_unique" UNIQUE("invite_hash")
);
--> statement-breakpoint
CREATE TABLE "study_assignments" (
	"id" text PRIMARY KEY NOT NULL,
	"study_id" text NOT NULL,
	"item_id" text NOT NULL,
	"rater_id" text NOT NULL,
	"kind" text NOT NULL,
	"left" text NOT NULL,
	"number" bigint NOT NULL,
	"shown_at" timestamp (3) with time zone,
	"voted_at" timestamp (3) with time zone,
	"expired_at" timestamp (3) with time zone
);
--> statement-breakpoint
CREATE TABLE "study_votes" (
	"id" text PRIMARY KEY NOT NULL,
	"study_id" text NOT NULL,
	"assignment_id" text NOT NULL,
	"criterion" text NOT NULL,
	"number" bigint NOT NULL,
	"verdict" text NOT NULL,
	"dwell_ms" bigint,
	"note" text,
	"created_at" timestamp (3) with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "battles" (
	"id" text PRIMARY KEY NOT NULL,
	"prompt" text NOT NULL,
	"system_a" text NOT NULL,
	"system_b" text NOT NULL,
	"left" text NOT NULL,
	"answer_a" text NOT NULL,
	"answer_b" text NOT NULL,
	"finish_a" text NOT NULL,
	"finish_b" text NOT NULL,
	"leaks" text NOT NULL,
	"verdict" text,
	"dwell_ms" bigint,
	"rater" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"ended_at" timestamp (3) with time zone,
	"voted_at" timestamp (3) with time zone
);
--> statement-breakpoint
CREATE TABLE "flags" (
	"id" text PRIMARY KEY NOT NULL,
	"source" text NOT NULL,
	"reference" text,
	"model" text,
	"prompt" text,
	"answer" text NOT NULL,
	"category" text NOT NULL,
	"note" text,
	"state" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"reviewed_at" timestamp (3) with time zone,
	"review" text
);
--> statement-breakpoint
CREATE UNIQUE INDEX "study_questions_question" ON "study_questions" USING btree ("study_id","question");--> statement-breakpoint
CREATE UNIQUE INDEX "study_answers_answer" ON "study_answers" USING btree ("study_id","question","system");--> statement-breakpoint
CREATE INDEX "study_items_study" ON "study_items" USING btree ("study_id");--> statement-breakpoint
CREATE INDEX "study_raters_study" ON "study_raters" USING btree ("study_id");--> statement-breakpoint
CREATE INDEX "study_assignments_study" ON "study_assignments" USING btree ("study_id","rater_id");--> statement-breakpoint
CREATE INDEX "study_votes_study" ON "study_votes" USING btree ("study_id");--> statement-breakpoint
CREATE UNIQUE INDEX "study_votes_number" ON "study_votes" USING btree ("assignment_id","criterion","number");--> statement-breakpoint
CREATE INDEX "battles_created" ON "battles" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "flags_created" ON "flags" USING btree ("created_at","id");