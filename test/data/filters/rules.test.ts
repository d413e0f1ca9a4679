import { describe, expect, test } from "bun:test";
import type { Dialogue } from "../../../src/data/dialogue.ts";
import { luhn, maskPii } from "../../../src/data/filters/pii.ts";
import { withoutPageCounter } from "../../../src/data/filters/page_counter.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { asked, dialogue, filtersOf, run, textsOf, type Ran } from "./dialogues.ts";

const folder = temporaryFolder("rules");
const apply = async (table: object, ...input: Dialogue[]): Promise<Ran> =>
  run(input, await filtersOf([table]), folder);
const reasons = ({ drops }: Ran): string[] => drops.map(({ reason }) => reason);
const lines = ({ kept }: Ran): number[] => kept.map(({ line }) => line);

describe("dedup", () => {
  const input = [
    asked(1, "What is  Rust?", "short"),
    asked(2, "what is rust?", "a longer answer"),
    asked(3, "ＷＨＡＴ is\nrust? ", "the same"),
    dialogue(4, "u: What is rust?", "a: one", "u: Why?", "a: two"),
    asked(5, "Something else"),
  ];

  test("by the first query keeps the longest, and each drop names it", async () => {
    const ran = await apply({ rule: "dedup" }, ...input);
    expect(lines(ran)).toEqual([2, 5]);
    expect(ran.drops.map(({ detail }) => detail)).toEqual(Array(3).fill("kept: made/made.jsonl:2"));
  });

  test("by all queries and by FastChat's exact rule other dialogues stay", async () => {
    expect(lines(await apply({ rule: "dedup", key: "all-queries" }, ...input))).toEqual([2, 4, 5]);
    const again = asked(6, "Something else");
    expect(lines(await apply({ rule: "dedup", key: "fastchat" }, ...input, again))).toEqual([1, 2, 3, 4, 5]);
    const tagged = [asked(7, "A"), asked(8, "B", "longer than the first")].map((one) => ({
      ...one,
      tags: { id: "x" },
    }));
    expect(lines(await apply({ rule: "dedup", key: "fastchat" }, ...tagged))).toEqual([7]);
  });
});

test("near duplicates are found by MinHash, and texts with a quarter of other words are not", async () => {
  const words = Array.from({ length: 120 }, (_, i) => `word${(i * 37) % 101}x${i}`);
  const edited = words.with(50, "other");
  const far = words.map((word, i) => (i % 4 === 0 ? `new${i}` : word));
  const ran = await apply(
    { rule: "near_dedup" },
    asked(1, words.join(" ")),
    asked(2, edited.join(" "), "Yes, and a longer answer."),
    asked(3, far.join(" ")),
    asked(4, "short"),
    asked(5, "SHORT"),
  );
  // The longest of the first two; the last two have the same words and length.
  expect(lines(ran)).toEqual([2, 3, 4]);
  const { halfAtSimilarity: s } = ran.report.rules[0]!.report as { halfAtSimilarity: number };
  expect(1 - (1 - s ** 8) ** 14).toBeCloseTo(0.5, 12);
});

describe("keywords", () => {
  test("are whole words by default and substrings as the original has them", async () => {
    const input = [
      asked(1, "A walk in the open air"),
      asked(2, "Is GPT-3.5 good?"),
      asked(3, "Ask OpenAI's people"),
    ];
    expect(lines(await apply({ rule: "keywords" }, ...input))).toEqual([1]);
    expect(lines(await apply({ rule: "keywords", match: "substring" }, ...input))).toEqual([]);
  });
});

describe("artefacts", () => {
  test("a page counter goes, a fraction stays", () => {
    for (const [before, after] of [
      ["2 / 2Create 10 lines", "Create 10 lines"],
      ["11 / 12\nHello", "Hello"],
      ["1 / 2 cup of sugar", "1 / 2 cup of sugar"],
      ["3 / 2Write", "3 / 2Write"],
      ["The odds are 2 / 2Create", "The odds are 2 / 2Create"],
    ] as const)
      expect(withoutPageCounter(before)).toBe(after);
  });

  test("HTML, buttons and labels are cleaned and counted", async () => {
    const ran = await apply(
      { rule: "artefacts" },
      asked(1, "1 / 3Hi", "<p>Use <code>a_b</code>:</p><ul><li>one</li><li>two</li></ul>"),
      asked(2, "Code", "Here:\n```pythonCopy codex = 1\n```\nDone Copy12 chars / 3 words"),
      asked(3, "Plain", "if a < b and c > d: print('<p>')"),
    );
    expect(ran.kept.map((one) => textsOf(one)[1])).toEqual([
      "Use `a_b`:\n\n- one\n- two",
      "Here:\n```python\nx = 1\n```\nDone ",
      "if a < b and c > d: print('<p>')",
    ]);
    expect(ran.report.rules[0]!.changes).toEqual({
      html: 1,
      "page-counter": 1,
      "copy-code": 1,
      "copy-chars": 1,
    });
    expect(ran.report.rules[0]!.changed).toBe(2);
  });

  test("error messages as answers, and answers of artefacts alone, are dropped", async () => {
    const ran = await apply(
      { rule: "artefacts" },
      asked(1, "Hi", "!Too many requests in 1 hour. Try again later."),
      asked(2, "Hi", "```Copy code```"),
      asked(3, "Hi", "HTTP 429 means too many requests in 1 hour or so."),
    );
    expect(lines(ran)).toEqual([3]);
    expect(reasons(ran)).toEqual([
      "an answer is an error message of the service",
      "an answer held nothing but artefacts",
    ]);
  });
});

describe("role order", () => {
  const early = dialogue(1, "s: Be kind.", "a: Hello", "u: Hi", "a: Hello", "u: And?");
  const twice = dialogue(2, "u: Hi", "u: There", "a: Hello");

  test("is repaired at both ends as FastChat does, and otherwise dropped", async () => {
    const ran = await apply({ rule: "roles" }, early, twice, dialogue(3, "u: Hi"));
    expect(ran.kept.map(textsOf)).toEqual([["Be kind.", "Hi", "Hello"]]);
    expect(reasons(ran)).toEqual(["questions and answers do not alternate", "there is no answer"]);
    expect(Object.keys(ran.report.rules[0]!.changes)).toEqual([
      "answers before the first question were cut off",
      "messages after the last answer were cut off",
    ]);
  });

  test("is a reason to drop where the recipe says so", async () => {
    expect(lines(await apply({ rule: "roles", order: "drop" }, early, asked(4, "Hi")))).toEqual([4]);
  });
});

test("empty turns drop a dialogue, or cut it before their exchange", async () => {
  const input = dialogue(1, "u: Hi", "a: Hello", "u: More", "a: \u200b ");
  expect(reasons(await apply({ rule: "empty_turns" }, input))).toEqual(["a turn of the assistant is empty"]);
  const cut = await apply({ rule: "empty_turns", action: "cut" }, input, asked(2, " "));
  expect(cut.kept.map(textsOf)).toEqual([["Hi", "Hello"]]);
  expect(reasons(cut)).toEqual(["a turn of the user is empty"]);
});

describe("long dialogues", () => {
  const turns = (lengths: number[]): string[] =>
    lengths.map((length, i) => `${i % 2 === 0 ? "u" : "a"}: ${String(i).padEnd(length, "x")}`);
  const split = { rule: "split", unit: "characters", per_turn: 0 };

  test("are split between exchanges and lose nothing, whatever the lengths", async () => {
    for (const max of [5, 40, 60, 100, 500])
      for (const lengths of [
        [10, 10, 10, 10, 10, 10],
        [10, 90, 10, 10],
        [10, 10, 200, 10],
        [300, 300],
      ]) {
        const whole = dialogue(1, ...turns(lengths));
        const ran = await apply({ ...split, max }, whole);
        expect(ran.kept.flatMap(textsOf)).toEqual(textsOf(whole));
        for (const one of ran.kept) {
          const { messages } = one.record;
          expect([messages[0]?.role, messages.at(-1)?.role]).toEqual(["user", "assistant"]);
          const length = textsOf(one).join("").length;
          // Only one exchange alone may be longer.
          expect(length <= max || messages.length === 2).toBeTrue();
        }
      }
  });

  test("keep their system message in each piece and number the pieces", async () => {
    const ran = await apply({ ...split, max: 45 }, dialogue(7, "s: sys", ...turns([20, 20, 20, 20])));
    expect(ran.kept.map(({ id }) => id)).toEqual(["made/made.jsonl:7#1", "made/made.jsonl:7#2"]);
    expect(ran.kept.map((one) => textsOf(one)[0])).toEqual(["sys", "sys"]);
    expect(ran.report.rules[0]).toMatchObject({ in: 1, out: 2, changed: 1, dropped: 0 });
  });

  test("need a tokenizer where tokens are counted", async () => {
    await expect(filtersOf([{ rule: "split", max: 10 }])).rejects.toThrow(/no tokenizer/);
    const [filter] = await filtersOf([{ rule: "split", max: 20 }], { countTokens: (text) => text.length });
    // 4 turns of 5, and 6 for each turn: 22 an exchange.
    expect(filter!.apply(dialogue(1, ...turns([5, 5, 5, 5])))).toMatchObject({ kept: { length: 2 } });
  });
});

describe("personal data", () => {
  test("is masked by kind", () => {
    for (const [before, after] of [
      ["Mail jane.doe@mail.host.org now", "Mail [EMAIL] now"],
      [
        "from 8.8.4.4, not 192.168.0.1, v1.2.3.4.5 or 300.1.1.1",
        "from [IP], not 192.168.0.1, v1.2.3.4.5 or 300.1.1.1",
      ],
      ["2607:f8b0:4005:805:0:0:0:200e and 12:30:45", "[IP] and 12:30:45"],
      ["call +44 20 7946 0958 or (212) 736-5000", "call [PHONE] or [PHONE]"],
      ["pay 4111 1111 1111 1111 not 4111 1111 1111 1112", "pay [CARD] not 4111 1111 1111 1112"],
      [`key sk-${"aB3".repeat(12)} ok`, "key [KEY] ok"],
      [`AKIA${"A1B2".repeat(4)}`, "[KEY]"],
      ["2023-04-03, 1,000,000 and 3.14159265358979", "2023-04-03, 1,000,000 and 3.14159265358979"],
      ["someone@example.com", "someone@example.com"],
    ] as const)
      expect(maskPii(before)).toBe(after);
  });

  test("Luhn's check sum is that of the standard's example and of the networks' test numbers", () => {
    // 7992739871x with x = 3 is ISO/IEC 7812's usual example.
    const valid = Array.from({ length: 10 }, (_, x) => luhn(`7992739871${x}`));
    expect(valid.indexOf(true)).toBe(3);
    expect(valid.filter((one) => one)).toHaveLength(1);
    expect(["378282246310005", "5555555555554444", "6011111111111117"].map(luhn)).toEqual([true, true, true]);
  });

  test("is counted, masked or a reason to drop, and never stands in a report", async () => {
    const input = [asked(1, "I am jane@mail.host.org, +1 212 736 5000"), asked(2, "Hi")];
    const seen = await apply({ rule: "pii" }, ...input);
    expect(seen.kept).toEqual(input);
    expect(seen.report.rules[0]!.notes).toEqual({ "holds: email": 1, "holds: phone": 1 });
    const masked = await apply({ rule: "pii", mode: "mask" }, ...input);
    expect(textsOf(masked.kept[0]!)[0]).toBe("I am [EMAIL], [PHONE]");
    const gone = await apply({ rule: "pii", mode: "drop", kinds: ["email"] }, ...input);
    expect(reasons(gone)).toEqual(["holds: email"]);
    expect(JSON.stringify(gone.report)).not.toContain("jane");
  });
});

test("licences are allowed and denied by name, and what is kept is counted", async () => {
  const with_ = (line: number, licence: string | null): Dialogue => ({ ...asked(line, "Hi"), licence });
  const input = [with_(1, "MIT"), with_(2, "CC BY-NC 4.0"), with_(3, null), with_(4, "odd")];
  const ran = await apply({ rule: "licence", allow: ["mit"], unknown: "drop" }, ...input);
  expect(lines(ran)).toEqual([1]);
  const denied = await apply({ rule: "licence", deny: ["cc by-nc 4.0"] }, ...input);
  expect(denied.report.rules[0]!.report).toEqual({ kept: { MIT: 1, "none stated": 1, odd: 1 } });
  await expect(filtersOf([{ rule: "licence", allow: ["MIT"], deny: ["mit"] }])).rejects.toThrow(/both/);
});

test("refusals are looked for in good answers only", async () => {
  const refusal = "I’m sorry, but as an AI language model I cannot.";
  const bad: Dialogue = { ...asked(3, "Hi", refusal), marker: "negative" };
  const input = [asked(1, "Hi", refusal), asked(2, "You said: as an AI language model"), bad];
  const pair: Dialogue = {
    ...asked(4, "Hi"),
    record: {
      kind: "preference",
      messages: [{ role: "user", content: "Hi" }],
      chosen: [{ role: "assistant", content: "Hello" }],
      rejected: [{ role: "assistant", content: refusal }],
      tools: [],
    },
  };
  expect(lines(await apply({ rule: "refusals" }, ...input, pair))).toEqual([2, 3, 4]);
});

test("length limits name the limit in the reason and the value in the detail", async () => {
  const ran = await apply(
    { rule: "length", min_answer_characters: 3, max_turns: 2 },
    asked(1, "Hi", "ok"),
    asked(2, "Hi"),
  );
  expect(ran.drops).toMatchObject([
    { reason: "an answer has fewer than 3 characters", detail: "2 characters" },
  ]);
});
