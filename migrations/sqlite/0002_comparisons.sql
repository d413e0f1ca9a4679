CREATE TABLE `studies` (
	`id` text PRIMARY KEY NOT NULL,
	`title` text NOT NULL,
	`sha256` text NOT NULL,
	`secret` text NOT NULL,
	`open_hash` text NOT NULL,
	`config` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `studies_sha256_unique` ON `studies` (`sha256`);--> statement-breakpoint
CREATE UNIQUE INDEX `studies_open_hash_unique` ON `studies` (`open_hash`);--> statement-breakpoint
CREATE TABLE `study_questions` (
	`id` text PRIMARY KEY NOT NULL,
	`study_id` text NOT NULL,
	`question` text NOT NULL,
	`set` text NOT NULL,
	`text` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `study_questions_question` ON `study_questions` (`study_id`,`question`);--> statement-breakpoint
CREATE TABLE `study_answers` (
	`id` text PRIMARY KEY NOT NULL,
	`study_id` text NOT NULL,
	`question` text NOT NULL,
	`system` text NOT NULL,
	`text` text NOT NULL,
	`finish` text NOT NULL,
	`leaks` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `study_answers_answer` ON `study_answers` (`study_id`,`question`,`system`);--> statement-breakpoint
CREATE TABLE `study_items` (
	`id` text PRIMARY KEY NOT NULL,
	`study_id` text NOT NULL,
	`question` text NOT NULL,
	`system_a` text NOT NULL,
	`system_b` text NOT NULL,
	`answer_a` text NOT NULL,
	`answer_b` text NOT NULL,
	`kind` text NOT NULL,
	`expected` text,
	`first_left` text NOT NULL
);
--> statement-breakpoint
CREATE INDEX `study_items_study` ON `study_items` (`study_id`);--> statement-breakpoint
CREATE TABLE `study_raters` (
	`id` text PRIMARY KEY NOT NULL,
	`study_id` text NOT NULL,
	`invite_hash` text NOT NULL,
	`platform` text NOT NULL,
	`submit` text,
	`created_at` integer NOT NULL,
	`consent_at` integer,
	`last_seen_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `study_raters_invite_hash_unique` ON `study_raters` (`invite_hash`);--> statement-breakpoint
CREATE INDEX `study_raters_study` ON `study_raters` (`study_id`);--> statement-breakpoint
CREATE TABLE `study_assignments` (
	`id` text PRIMARY KEY NOT NULL,
	`study_id` text NOT NULL,
	`item_id` text NOT NULL,
	`rater_id` text NOT NULL,
	`kind` text NOT NULL,
	`left` text NOT NULL,
	`number` integer NOT NULL,
	`shown_at` integer,
	`voted_at` integer,
	`expired_at` integer
);
--> statement-breakpoint
CREATE INDEX `study_assignments_study` ON `study_assignments` (`study_id`,`rater_id`);--> statement-breakpoint
CREATE TABLE `study_votes` (
	`id` text PRIMARY KEY NOT NULL,
	`study_id` text NOT NULL,
	`assignment_id` text NOT NULL,
	`criterion` text NOT NULL,
	`number` integer NOT NULL,
	`verdict` text NOT NULL,
	`dwell_ms` integer,
	`note` text,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `study_votes_study` ON `study_votes` (`study_id`);--> statement-breakpoint
CREATE UNIQUE INDEX `study_votes_number` ON `study_votes` (`assignment_id`,`criterion`,`number`);--> statement-breakpoint
CREATE TABLE `battles` (
	`id` text PRIMARY KEY NOT NULL,
	`prompt` text NOT NULL,
	`system_a` text NOT NULL,
	`system_b` text NOT NULL,
	`left` text NOT NULL,
	`answer_a` text NOT NULL,
	`answer_b` text NOT NULL,
	`finish_a` text NOT NULL,
	`finish_b` text NOT NULL,
	`leaks` text NOT NULL,
	`verdict` text,
	`dwell_ms` integer,
	`rater` text NOT NULL,
	`created_at` integer NOT NULL,
	`ended_at` integer,
	`voted_at` integer
);
--> statement-breakpoint
CREATE INDEX `battles_created` ON `battles` (`created_at`);--> statement-breakpoint
CREATE TABLE `flags` (
	`id` text PRIMARY KEY NOT NULL,
	`source` text NOT NULL,
	`reference` text,
	`model` text,
	`prompt` text,
	`answer` text NOT NULL,
	`category` text NOT NULL,
	`note` text,
	`state` text NOT NULL,
	`created_at` integer NOT NULL,
	`reviewed_at` integer,
	`review` text
);
--> statement-breakpoint
CREATE INDEX `flags_created` ON `flags` (`created_at`,`id`);