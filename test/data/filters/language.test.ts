import { describe, expect, test } from "bun:test";
import { Language, languageOptions } from "../../../src/data/filters/language.ts";
import { scriptOf } from "../../../src/data/filters/scripts.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { asked, filtersOf, run } from "./dialogues.ts";

const language = (options: object = {}): Promise<Language> =>
  Language.create(languageOptions.parse({ rule: "language", ...options }));

/** Written for this test: everyday sentences, one or two a language. */
const foreign: { [language: string]: string[] } = {
  de: [
    "Können Sie mir bitte erklären, wie ein Fahrrad funktioniert?",
    "Schreib mir ein kurzes Gedicht über den Herbst.",
  ],
  fr: ["Peux-tu m'expliquer comment fonctionne un vélo ?", "Écris un petit poème sur la mer et les bateaux."],
  es: [
    "¿Puedes explicarme cómo funciona una bicicleta?",
    "Escribe un poema corto sobre el otoño y la lluvia.",
  ],
  it: [
    "Puoi spiegarmi come funziona una bicicletta?",
    "Scrivi una breve poesia sull'autunno e sulla pioggia.",
  ],
  pt: [
    "Você pode me explicar como funciona uma bicicleta?",
    "Escreva um poema curto sobre o outono e a chuva.",
  ],
  nl: ["Kun je mij uitleggen hoe een fiets werkt?", "Schrijf een kort gedicht over de herfst en de regen."],
  pl: ["Czy możesz mi wyjaśnić, jak działa rower?", "Napisz krótki wiersz o jesieni i deszczu."],
  sv: ["Kan du förklara för mig hur en cykel fungerar?"],
  tr: ["Bana bir bisikletin nasıl çalıştığını açıklar mısın?"],
  vi: ["Bạn có thể giải thích cho tôi xe đạp hoạt động như thế nào không?"],
  id: ["Bisakah kamu menjelaskan kepada saya bagaimana cara kerja sepeda?"],
  ru: ["Объясни, пожалуйста, как работает велосипед?"],
  el: ["Μπορείς να μου εξηγήσεις πώς λειτουργεί ένα ποδήλατο;"],
  ar: ["هل يمكنك أن تشرح لي كيف تعمل الدراجة؟"],
  hi: ["क्या आप मुझे समझा सकते हैं कि साइकिल कैसे काम करती है?"],
  ja: ["自転車の仕組みを説明してください。"],
  ko: ["자전거가 어떻게 작동하는지 설명해 주세요."],
  zh: ["请解释自行车是如何工作的。", "用 Python 写一个 hello world 程序"],
};

const english = [
  "Can you explain to me how a bicycle works?",
  "Write a short poem about autumn and rain.",
  'Translate "请解释自行车" into English and French, please.',
  "What does the German word Gemütlichkeit mean?",
  "Fix this code: `for (let i = 0; i < n; i++) console.log(i)`",
];

describe("the language filter", () => {
  test("keeps English questions and drops those of 18 other languages, also with an English answer", async () => {
    const filters = await filtersOf([{ rule: "language" }]);
    const folder = temporaryFolder("language");
    const others = Object.values(foreign).flat();
    expect(
      (
        await run(
          english.map((text, i) => asked(i, text, text)),
          filters,
          folder,
        )
      ).drops,
    ).toEqual([]);
    expect(
      (
        await run(
          others.map((text, i) => asked(i, text, text)),
          filters,
          folder,
        )
      ).kept,
    ).toEqual([]);
    // Where the script tells, an English answer does not help the question.
    const scripts = ["ru", "el", "ar", "hi", "ja", "ko", "zh"].flatMap((code) => foreign[code]!);
    const mixed = scripts.map((text, i) =>
      asked(i, text, "Certainly! A bicycle turns your pedalling into motion."),
    );
    expect((await run(mixed, filters, folder)).kept).toEqual([]);
  });

  test("keeps the languages that the recipe names", async () => {
    const filter = await language({ languages: ["de", "zh"] });
    const kept = (text: string): boolean => "kept" in filter.apply(asked(1, text, text));
    for (const code of ["de", "zh"]) expect(foreign[code]!.map(kept)).not.toContain(false);
    for (const code of ["fr", "ru", "ja", "pl"]) expect(foreign[code]!.map(kept)).not.toContain(true);
  });

  test("treats what it cannot tell as the recipe says", async () => {
    const [keep, drop] = [await language(), await language({ unknown: "drop" })];
    for (const text of ["1 + 1 = ?", "ok", "🙂"]) {
      expect(keep.apply(asked(1, text, ""))).toMatchObject({
        changes: [],
        notes: ["the language is unknown"],
      });
      expect(drop.apply(asked(1, text, ""))).toEqual({
        dropped: { reason: "the language is unknown", detail: null },
      });
    }
  });

  test("reads long texts at their beginning, middle and end", async () => {
    const filter = await language();
    const german = `${foreign.de!.join(" ")} `;
    expect(filter.languageOf(`${english[0]} ${german.repeat(60)}`)).toBe("de");
    expect(filter.languageOf(`${german} ${`${english[0]} ${english[1]} `.repeat(60)}`)).toBe("en");
  });
});

test("scripts are told by Unicode's names, and a few Chinese signs outweigh Latin names beside them", () => {
  expect(scriptOf("用 Python 写程序").script).toBe("Han");
  expect(scriptOf("Hello 你").script).toBe("Latin");
  expect(scriptOf("привет").script).toBe("Cyrillic");
  expect(scriptOf("123 …").script).toBeNull();
});
