CREATE TABLE `files` (
	`id` text PRIMARY KEY NOT NULL,
	`filename` text NOT NULL,
	`purpose` text NOT NULL,
	`bytes` integer NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer
);
--> statement-breakpoint
CREATE INDEX `files_created` ON `files` (`created_at`,`id`);--> statement-breakpoint
CREATE TABLE `uploads` (
	`id` text PRIMARY KEY NOT NULL,
	`filename` text NOT NULL,
	`purpose` text NOT NULL,
	`mime_type` text NOT NULL,
	`bytes` integer NOT NULL,
	`status` text NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer NOT NULL,
	`file_seconds` integer,
	`file_id` text
);
--> statement-breakpoint
CREATE TABLE `upload_parts` (
	`id` text PRIMARY KEY NOT NULL,
	`upload_id` text NOT NULL,
	`bytes` integer NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `upload_parts_upload` ON `upload_parts` (`upload_id`);--> statement-breakpoint
CREATE TABLE `jobs` (
	`id` text PRIMARY KEY NOT NULL,
	`created_at` integer NOT NULL,
	`finished_at` integer,
	`status` text NOT NULL,
	`model` text NOT NULL,
	`source` text NOT NULL,
	`training_file` text NOT NULL,
	`validation_file` text,
	`suffix` text,
	`seed` integer NOT NULL,
	`method` text NOT NULL,
	`resolved` text,
	`metadata` text,
	`error` text,
	`fine_tuned_model` text,
	`result_file` text,
	`trained_tokens` integer,
	`step` integer NOT NULL,
	`steps` integer,
	`estimated_finish` integer,
	`event_count` integer NOT NULL,
	`lease_owner` text,
	`lease_until` integer,
	`deaths` integer NOT NULL,
	`death_step` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `jobs_created` ON `jobs` (`created_at`,`id`);--> statement-breakpoint
CREATE INDEX `jobs_status` ON `jobs` (`status`);--> statement-breakpoint
CREATE TABLE `job_events` (
	`id` text PRIMARY KEY NOT NULL,
	`job_id` text NOT NULL,
	`number` integer NOT NULL,
	`created_at` integer NOT NULL,
	`level` text NOT NULL,
	`type` text NOT NULL,
	`message` text NOT NULL,
	`data` text NOT NULL,
	`step` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `job_events_number` ON `job_events` (`job_id`,`number`);--> statement-breakpoint
CREATE TABLE `job_checkpoints` (
	`id` text PRIMARY KEY NOT NULL,
	`job_id` text NOT NULL,
	`step` integer NOT NULL,
	`created_at` integer NOT NULL,
	`model` text NOT NULL,
	`metrics` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `job_checkpoints_step` ON `job_checkpoints` (`job_id`,`step`);--> statement-breakpoint
CREATE TABLE `models` (
	`id` text PRIMARY KEY NOT NULL,
	`job_id` text NOT NULL,
	`parent` text NOT NULL,
	`folder` text NOT NULL,
	`template` text,
	`created_at` integer NOT NULL
);
