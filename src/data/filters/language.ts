/** Keeps dialogues in chosen languages: the scripts of each question and of the whole are looked at first, then eld's small
 *  n-gram model over all turns together. Always: short or unclear texts are "unknown" and follow the recipe's policy; every
 *  drop names what was detected. */
import { z } from "zod";
import { UsageError } from "../../util/errors.ts";
import { type Dialogue, userTurns } from "../dialogue.ts";
import { dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { scriptOf, scriptsOf } from "./scripts.ts";
import { allText } from "./texts.ts";

export const languageOptions = z.strictObject({
  rule: z.literal("language"),
  /** ISO 639-1 codes. */
  languages: z.array(z.string().min(2)).min(1).default(["en"]),
  /** Texts that are too short or too unclear to tell. */
  unknown: z.enum(["keep", "drop"]).default("keep"),
  /** Letters below which the model is not asked; the script still decides. */
  min_letters: z.int().min(0).default(12),
});

type Options = z.output<typeof languageOptions>;
type Detect = (text: string) => {
  language: string;
  isReliable(): boolean;
  getScores(): Record<string, number>;
};

export class Language implements Filter {
  readonly name = "language";
  private readonly allowed: Set<string>;
  private readonly scripts: Set<string>;

  /** Loads the model (1.6 MB) here, so that nothing else waits for it. */
  static async create(options: Options): Promise<Language> {
    const { eld } = (await import("eld/small")) as unknown as {
      eld: { detect: Detect; info(): { Languages: Record<string, string> } };
    };
    const known = new Set(Object.values(eld.info().Languages));
    for (const language of options.languages)
      if (!known.has(language))
        throw new UsageError(
          `The language filter does not know the language ${JSON.stringify(language)}; it knows ${[...known].toSorted().join(", ")}.`,
        );
    return new Language(options, (text) => eld.detect(text));
  }

  private constructor(
    private readonly options: Options,
    private readonly detect: Detect,
  ) {
    this.allowed = new Set(options.languages);
    this.scripts = new Set(options.languages.flatMap((language) => scriptsOf[language] ?? ["Latin"]));
  }

  apply(dialogue: Dialogue): Outcome {
    const foreign = userTurns(dialogue).flatMap((turn) => this.foreignScript(turn) ?? [])[0];
    if (foreign !== undefined) return dropped(`a question is written in ${foreign} script`);
    const detected = this.languageOf(allText(dialogue));
    if (this.allowed.has(detected)) return kept(dialogue);
    if (detected === "unknown")
      return this.options.unknown === "keep"
        ? kept(dialogue, ["the language is unknown"])
        : dropped("the language is unknown");
    return dropped(`the language is ${detected}`);
  }

  /** The script that a question is asked in, where no chosen language is written in it: of its first line, since code or a
   *  text to work on follows, and without what is quoted, since English questions quote Chinese and the reverse. */
  private foreignScript(turn: string): string | null {
    const [line = ""] = turn.trimStart().split("\n", 1);
    const own = line.replace(asides, " ");
    const { script } = scriptOf(/\p{L}/u.test(own) ? own : line);
    return script === null || this.scripts.has(script) ? null : script;
  }

  /** An ISO 639-1 code, "unknown", or the name of a script that no chosen language is written in. */
  languageOf(text: string): string {
    const { script, letters } = scriptOf(text);
    if (script !== null && !this.scripts.has(script)) return `written in ${script} script`;
    if (letters < this.options.min_letters) return "unknown";
    return this.detected(text);
  }

  /** The model reads 1000 characters at a time: up to three windows are asked and their scores are added. */
  private detected(text: string): string {
    const sums = new Map<string, number>();
    let reliable = false;
    for (const window of windowsOf(proseOf(text))) {
      const result = this.detect(window);
      reliable ||= result.isReliable();
      for (const [language, score] of Object.entries(result.getScores()))
        sums.set(language, (sums.get(language) ?? 0) + score);
    }
    const [best, second] = [...sums].toSorted(([, a], [, b]) => b - a);
    if (!best || !reliable) return this.unclear(sums);
    // Two languages as near to each other as this are told apart by chance.
    if (second && this.allowed.has(second[0]) && best[1] - second[1] < closeCall * best[1]) return second[0];
    return best[0];
  }

  /** The model's own doubt: a chosen language near the top is taken, else it stays unknown. */
  private unclear(sums: Map<string, number>): string {
    const ranked = [...sums].toSorted(([, a], [, b]) => b - a);
    const chosen = ranked.slice(0, 3).find(([language]) => this.allowed.has(language));
    return chosen?.[0] ?? "unknown";
  }
}

/** Quotations, remarks in brackets and tags. */
const asides =
  /"[^"]*"|“[^”]*”|「[^」]*」|『[^』]*』|《[^》]*》|«[^»]*»|\([^)]*\)|（[^）]*）|<[^<>]*>|`[^`]*`/g;

const closeCall = 0.03;

/** Code is no language: fenced blocks and addresses are left out, unless nothing else is there. */
function proseOf(text: string): string {
  const prose = text.replace(/```[\s\S]*?(?:```|$)/g, " ").replace(/\bhttps?:\/\/\S+/g, " ");
  return prose.trim() === "" ? text : prose;
}

function windowsOf(text: string): string[] {
  const size = 1000;
  if (text.length <= 1.5 * size) return [text];
  const last = text.length - size;
  return (text.length <= 3 * size ? [0, last] : [0, Math.floor(last / 2), last]).map((start) =>
    text.slice(start, start + size),
  );
}
