/** Faults of training data that cost others weeks (training.md §7): each is looked for in every document and, unless it is
 *  allowed by name, refuses the data set. */
import type { Segment } from "../text/segments.ts";
import type { ChatTemplate } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { contentText, type TrainingMessage, type TrainingRecord } from "./record.ts";

/** What each lint says about a document, and what to do. Those in `reportedOnly` never refuse. */
export const lints = {
  "no-trained-tokens": "no token of the document is trained on: it has no answer with a weight",
  "trained-share": "too few of all tokens are trained on: is the format or the template the wrong one?",
  "untrained-stop":
    "a trained answer does not end with a trained stop token, so the model would not learn to stop",
  "double-bos": "the document begins with two BOS tokens: template and data both write one",
  "too-long": "the document is longer than the sequence length; raise it, or choose drop or cut for these",
  "special-in-user": "a question or text holds the literal of a special token, which stays plain text",
  "empty-answer": "a trained answer is empty",
  "role-order": "questions and answers do not alternate",
  dropped: "the record cannot be read or rendered and was dropped",
  "last-turn-only": "the template rewrites earlier turns, so only the last answer is trained on",
  "cut-or-dropped": "the document was longer than the sequence length and was cut or dropped, as asked",
  duplicate: "the document is the same as an earlier one",
} as const;

export type Lint = keyof typeof lints;

export const lintNames = Object.keys(lints) as Lint[];

export const reportedOnly: ReadonlySet<Lint> = new Set(["last-turn-only", "cut-or-dropped", "duplicate"]);

/** Lints of the record itself, before it becomes tokens. */
export function recordLints(record: TrainingRecord, tokenizer: Tokenizer): Lint[] {
  const found: Lint[] = [];
  const holdsSpecial = (text: string): boolean =>
    tokenizer.specialLiterals.some((literal) => literal.length > 1 && text.includes(literal));
  const { typed, answers } = textsOf(record);
  if (typed.some(holdsSpecial)) found.push("special-in-user");
  if (answers.some((text) => text.trim() === "")) found.push("empty-answer");
  const conversations =
    record.kind === "labelled"
      ? [[...record.messages, ...record.answer]]
      : record.kind === "chat"
        ? [record.messages]
        : record.kind === "preference"
          ? [
              [...record.messages, ...record.chosen],
              [...record.messages, ...record.rejected],
            ]
          : [];
  if (!conversations.every(rolesAlternate)) found.push("role-order");
  return found;
}

/** Lints of a document's tokens. */
export function documentLints(
  segments: readonly Segment[],
  tokenizer: Tokenizer,
  template: ChatTemplate | null,
): Lint[] {
  const found: Lint[] = [];
  const trained = trainedRuns(segments);
  if (trained.length === 0) found.push("no-trained-tokens");
  const stops = new Set([...tokenizer.eosIds, ...(template?.stopIds ?? [])]);
  const ends = (run: number[]): boolean =>
    stops.has(run.at(-1)!) ||
    (template?.stopStrings ?? []).some((stop) => tokenizer.decode(run.slice(-32)).trimEnd().endsWith(stop));
  // Text may be cut anywhere: its pieces have no end to learn.
  if (segments[0]?.source !== "text" && !trained.every(ends)) found.push("untrained-stop");
  const [first, second] = segments.flatMap((segment) => segment.ids).slice(0, 2);
  if (tokenizer.bosId !== null && first === tokenizer.bosId && second === first) found.push("double-bos");
  return found;
}

/** Ids of each stretch of tokens with loss. */
function trainedRuns(segments: readonly Segment[]): number[][] {
  const runs: number[][] = [];
  let open = false;
  for (const { ids, loss } of segments) {
    if (ids.length === 0) continue;
    if (loss > 0) {
      if (open) runs.at(-1)!.push(...ids);
      else runs.push([...ids]);
    }
    open = loss > 0;
  }
  return runs;
}

function textsOf(record: TrainingRecord): { typed: string[]; answers: string[] } {
  switch (record.kind) {
    case "chat":
      return messageTexts(record.messages);
    case "labelled":
      return {
        typed: messageTexts([...record.messages, ...record.answer]).typed,
        answers: messageTexts(record.answer).answers,
      };
    case "preference": {
      const { typed } = messageTexts(record.messages);
      const sides = messageTexts([...record.chosen, ...record.rejected]);
      return { typed: [...typed, ...sides.typed], answers: sides.answers };
    }
    case "text":
      return { typed: [record.text], answers: [] };
    case "fields": {
      const texts = record.parts.flatMap((part) => (part.kind === "text" ? part : []));
      return {
        typed: texts.filter((part) => part.loss === 0).map((part) => part.text),
        answers: texts.filter((part) => part.loss > 0).map((part) => part.text),
      };
    }
    default:
      return record satisfies never;
  }
}

function messageTexts(messages: readonly TrainingMessage[]): { typed: string[]; answers: string[] } {
  const answered = messages.filter(
    ({ role, weight, tool_calls: calls }) => role === "assistant" && weight !== 0 && !calls,
  );
  const typed = messages.filter(({ role }) => role !== "assistant");
  return { typed: typed.map(contentText), answers: answered.map(contentText) };
}

/** System messages first, then a question, then answers and questions in turn; tool results stand behind calls. */
export function rolesAlternate(messages: readonly TrainingMessage[]): boolean {
  let before = "system";
  for (const { role: given, tool_calls: calls } of messages) {
    const role = given === "developer" ? "system" : given === "function" ? "tool" : given;
    const allowed: { [role: string]: string[] } = {
      system: ["system"],
      user: ["system", "assistant"],
      assistant: ["user", "tool"],
      tool: ["calls", "tool"],
    };
    if (!allowed[role]?.includes(before)) return false;
    before = role === "assistant" && calls ? "calls" : role;
  }
  return true;
}
