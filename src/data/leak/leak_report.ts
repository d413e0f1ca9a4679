/** The report of a leakage check: for each question the closest training text by each rule, and whether it leaks. */
import type { Question } from "../question_sets.ts";
import type { LeakHit, LeakRule } from "./leak_index.ts";

export interface Closest {
  score: number;
  unsmoothed: number | null;
  /** Id of the training dialogue, and which of its user turns, from 1. */
  dialogue: string;
  turn: number;
  /** How the turn begins. */
  excerpt: string;
  leaks: boolean;
}

const excerptLength = 400;

export interface LeakRow {
  question: string;
  text: string;
  leaks: boolean;
  /** Rules that found it, with the closest text of each. BLEU at or below the threshold is not computed, so not here. */
  closest: { [rule in LeakRule]?: Closest };
}

export interface LeakReport {
  questions: number;
  /** Questions that stand in the training data. */
  leaked: number;
  /** Training dialogues in which some question stands. */
  dialogues: number;
  rows: LeakRow[];
}

export class LeakReporter {
  private readonly rows = new Map<string, LeakRow>();
  private dialogues = 0;

  constructor(questions: readonly Question[]) {
    for (const { id, text } of questions)
      this.rows.set(id, { question: id, text, leaks: false, closest: {} });
  }

  /** `turn`: which user turn of the dialogue, and its text. */
  add(hit: LeakHit, dialogue: string, turn: { number: number; text: string }): void {
    const row = this.rows.get(hit.question.id)!;
    row.leaks ||= hit.leaks;
    const before = row.closest[hit.rule];
    // The first of equals stays: the report does not depend on more than the order of the data.
    if (before && before.score >= hit.score) return;
    row.closest[hit.rule] = {
      score: hit.score,
      unsmoothed: hit.unsmoothed,
      dialogue,
      turn: turn.number,
      excerpt: turn.text.slice(0, excerptLength),
      leaks: hit.leaks,
    };
  }

  countDialogue(): void {
    this.dialogues++;
  }

  report(): LeakReport {
    const rows = [...this.rows.values()];
    const leaked = rows.filter(({ leaks }) => leaks).length;
    return { questions: rows.length, leaked, dialogues: this.dialogues, rows };
  }
}
