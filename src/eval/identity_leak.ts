/** Words by which an answer tells who wrote it: a rater who reads them is no longer blind.
 *  The list is Chatbot Arena's (FastChat, `serve/monitor/clean_battle_data.py`) with this project's names; the systems
 *  under comparison are added to it. Matches are whole words, whatever their case. */

/** Names of models, of who makes them, and the phrases in which models speak of themselves. */
export const identityWords: readonly string[] = [
  "vicuna",
  "lmsys",
  "koala",
  "uc berkeley",
  "open assistant",
  "laion",
  "chatglm",
  "chatgpt",
  "gpt-3",
  "gpt-3.5",
  "gpt-4",
  "openai",
  "anthropic",
  "claude",
  "bard",
  "palm",
  "lamda",
  "google",
  "gemini",
  "llama",
  "meta ai",
  "alpaca",
  "dolly",
  "databricks",
  "stablelm",
  "stability ai",
  "mistral",
  "mixtral",
  "qwen",
  "tongyi",
  "alibaba",
  "deepseek",
  "wizardlm",
  "ernie bot",
  "yi-34b",
];

/** The words of `text` that tell its author, each once, in the list's order. Words of the prompt do not count: an answer to
 *  "What is a koala?" may speak of koalas. */
export function identityLeaks(
  text: string,
  given: { systems: readonly string[]; prompt?: string; words?: readonly string[] },
): string[] {
  const prompt = given.prompt ?? "";
  const words = [
    ...new Set([...(given.words ?? identityWords), ...given.systems].map((word) => word.toLowerCase())),
  ];
  return words.filter((word) => {
    const pattern = wordPattern(word);
    return pattern !== null && pattern.test(text) && !pattern.test(prompt);
  });
}

const patterns = new Map<string, RegExp | null>();

/** A letter or digit on either side is another word; "-" and " " in names are written both ways. */
function wordPattern(word: string): RegExp | null {
  const known = patterns.get(word);
  if (known !== undefined) return known;
  const parts = word
    .trim()
    .split(/[\s_-]+/)
    .filter((part) => part !== "");
  const body = parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("[\\s_-]*");
  // One letter or digit, such as a system named "a", is in every text.
  const pattern = body.length < 2 ? null : new RegExp(`(?<![\\p{L}\\p{N}])${body}(?![\\p{L}\\p{N}])`, "iu");
  patterns.set(word, pattern);
  return pattern;
}

export interface LeakCount {
  system: string;
  answers: number;
  leaking: number;
  words: Record<string, number>;
}

/** For a report: how many answers of each system tell who wrote them, and by which words. */
export function leakTable(answers: readonly { system: string; leaks: readonly string[] }[]): LeakCount[] {
  const table = new Map<string, LeakCount>();
  for (const { system, leaks } of answers) {
    const row = table.get(system) ?? { system, answers: 0, leaking: 0, words: {} };
    row.answers++;
    if (leaks.length > 0) row.leaking++;
    for (const word of leaks) row.words[word] = (row.words[word] ?? 0) + 1;
    table.set(system, row);
  }
  return [...table.values()];
}
