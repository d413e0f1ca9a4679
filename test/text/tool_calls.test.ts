import { describe, expect, test } from "bun:test";
import { plainMessages } from "../../src/text/chat_messages.ts";
import { ToolCallParser, type ToolCallDelta } from "../../src/text/tool_calls.ts";
import { detectToolFormat, explainTools, type ToolFormat } from "../../src/text/tool_formats.ts";
import { type GrammarSpec, toolGrammar } from "../../src/text/tool_grammar.ts";
import { random } from "./corpus.ts";

const tools = ["weather", "time"];

interface Answer {
  content: string;
  calls: { id: string; name: string; arguments: string }[];
}

/** As the OpenAI client puts deltas together. */
function collect(format: ToolFormat, pieces: string[]): Answer {
  const parser = new ToolCallParser(format, { tools });
  const answer: Answer = { content: "", calls: [] };
  const add = (content: string | undefined, deltas: ToolCallDelta[]): void => {
    answer.content += content ?? "";
    for (const { index, id, name, argumentsDelta } of deltas) {
      if (id !== undefined) answer.calls[index] = { id, name: name!, arguments: "" };
      answer.calls[index]!.arguments += argumentsDelta;
    }
  };
  for (const piece of pieces) {
    const { content, calls } = parser.push(piece);
    add(content, calls);
  }
  const { content, calls } = parser.end();
  add(content, calls);
  return answer;
}

function inPieces(text: string, next: () => number): string[] {
  const pieces: string[] = [];
  for (let at = 0; at < text.length;) {
    const length = 1 + Math.floor(next() * 6);
    pieces.push(text.slice(at, at + length));
    at += length;
  }
  return pieces;
}

const paris = '{"city": "Pa\\"ris {}", "days": [1, 2, {"a": null}]}';
const texts: [ToolFormat, string, { content: string; calls: [string, string][] }][] = [
  [
    "hermes",
    `<tool_call>\n{"name": "weather", "arguments": ${paris}}\n</tool_call>`,
    { content: "", calls: [["weather", paris]] },
  ],
  [
    "hermes",
    `Let me look.\n<tool_call>{"arguments": ${paris}, "name": "weather"}</tool_call>\n<tool_call>\n{"name":"time","arguments":{}}\n</tool_call>`,
    {
      content: "Let me look.\n",
      calls: [
        ["weather", paris],
        ["time", "{}"],
      ],
    },
  ],
  [
    "generic",
    `<tool_call>{"name": "time", "arguments": {}}</tool_call> done`,
    { content: " done", calls: [["time", "{}"]] },
  ],
  ["hermes", `<tool_call>{"name": "time"}</tool_call>`, { content: "", calls: [["time", "{}"]] }],
  [
    "hermes",
    `<tool_call>{"name": "weather", "arguments": "{\\"city\\": 1}"}</tool_call>`,
    { content: "", calls: [["weather", '{"city": 1}']] },
  ],
  ["llama3", `{"name": "weather", "parameters": ${paris}}`, { content: "", calls: [["weather", paris]] }],
  [
    "llama3",
    `<|python_tag|>{"name": "weather", "parameters": ${paris}}; {"name": "time", "parameters": {}}`,
    {
      content: "",
      calls: [
        ["weather", paris],
        ["time", "{}"],
      ],
    },
  ],
  [
    "mistral",
    `[TOOL_CALLS] [{"name": "weather", "arguments": ${paris}}, {"name": "time", "arguments": {}, "id": "abcdefghi"}]`,
    {
      content: "",
      calls: [
        ["weather", paris],
        ["time", "{}"],
      ],
    },
  ],
];

describe("calls", () => {
  test.each(texts)("%s: %s, whole and in 50 random cuts", (format, text, want) => {
    const next = random(2);
    for (let round = 0; round < 50; round++) {
      const answer = collect(format, round === 0 ? [text] : inPieces(text, next));
      expect({
        content: answer.content,
        calls: answer.calls.map((call) => [call.name, call.arguments]),
      }).toEqual(want as never);
      for (const { id } of answer.calls) expect(id).toMatch(/^call_[A-Za-z0-9]{24}$/);
    }
  });

  test("arguments stream as they come, the id and name once", () => {
    const parser = new ToolCallParser("hermes", { tools, randomId: () => "r" });
    expect(parser.push('<tool_call>{"name": "wea').calls).toEqual([]);
    expect(parser.push('ther", "arg').calls).toEqual([
      { index: 0, id: "call_r", name: "weather", argumentsDelta: "" },
    ]);
    expect(parser.push('uments": {"ci').calls).toEqual([{ index: 0, argumentsDelta: '{"ci' }]);
    expect(parser.push('ty": 1}').calls).toEqual([{ index: 0, argumentsDelta: 'ty": 1}' }]);
    expect(parser.push("}</tool_call>").calls).toEqual([]);
    expect(parser.end()).toEqual({ calls: [] });
  });
});

test("a call whose closing tag is cut leaves no piece of the tag in the content", () => {
  const call = '<tool_call>\n{"name": "time", "arguments": {}}';
  for (const tail of ["\n", "\n<", "\n</tool_", "\n</tool_call>", "\n</tool_call>\n<tool"]) {
    const { content, calls } = collect("hermes", [`Now: ${call}${tail}`]);
    expect([content, calls.map(({ name }) => name)]).toEqual(["Now: ", ["time"]]);
  }
  expect(collect("hermes", [`${call}\n</tool_call> and < text`]).content).toContain("and < text");
});

const noCalls: [ToolFormat, string][] = [
  ["hermes", "An answer with < and <tool and <tool_calls> in it."],
  ["hermes", "<tool_call>this is no JSON</tool_call> at all"],
  ["hermes", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'],
  ["hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'],
  ["hermes", '<tool_call>{"nam'],
  ["hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'],
  ["hermes", '<tool_call>{"a": }}}</tool_call>'],
  ["llama3", '{"answer": 42}'],
  ["llama3", "{not json"],
  ["llama3", 'See: {"name": "weather", "parameters": {}}'],
  ["llama3", "<|python"],
  ["mistral", "[TOOL_CALLS] nothing"],
  ["mistral", "A list: [1, 2]"],
  ["mistral", "[TOOL_"],
];

describe("text that is no call", () => {
  test.each(noCalls)("%s: %s comes out whole as content", (format, text) => {
    const next = random(8);
    for (let round = 0; round < 30; round++)
      expect(collect(format, round === 0 ? [text] : inPieces(text, next))).toEqual({
        content: text,
        calls: [],
      });
  });

  test("nothing throws on 4000 scrambled texts, and content without a marker is never changed", () => {
    const next = random(6);
    const parts = [
      "<tool_call>",
      "</tool_call>",
      '{"name": "time"',
      ', "arguments": ',
      "{",
      "}",
      "[",
      "]",
      '"',
      "\\",
      "[TOOL_CALLS]",
      "<|python_tag|>",
      ": ",
      "1",
      " ",
      "\n",
      "x",
      ";",
      ",",
    ];
    for (let round = 0; round < 4000; round++) {
      const text = Array.from(
        { length: Math.floor(next() * 12) },
        () => parts[Math.floor(next() * parts.length)]!,
      ).join("");
      for (const format of ["hermes", "llama3", "mistral"] as const) {
        const answer = collect(format, inPieces(text, next));
        if (!/<tool_call>|\[TOOL_CALLS\]|^\s*(?:<\|python_tag\|>\s*)?\{/.test(text) && format !== "llama3")
          expect(answer.content).toBe(text);
        if (answer.calls.length === 0) expect(answer.content).toBe(text);
      }
    }
  });
});

test("the format is told from what the template teaches", () => {
  expect(detectToolFormat('return a json object within <tool_call></tool_call> tags: {"name"')).toBe(
    "hermes",
  );
  expect(detectToolFormat("{{ '[TOOL_CALLS]' }}")).toBe("mistral");
  expect(detectToolFormat('Respond in the format {"name": function name, "parameters": ...} ipython')).toBe(
    "llama3",
  );
  expect(detectToolFormat("<tool_call>\n<function=name>")).toBe("generic");
  expect(detectToolFormat("{{ messages }}")).toBe("generic");
});

test("where a template knows no tools, an instruction and plain texts stand for them", () => {
  const messages = plainMessages([
    { role: "user", content: "Weather?" },
    {
      role: "assistant",
      content: null,
      tool_calls: [{ id: "1", function: { name: "weather", arguments: '{"city":"Paris"}' } }],
    },
    { role: "tool", tool_call_id: "1", content: "sunny" },
    { role: "tool", tool_call_id: "2", content: "warm" },
  ]);
  const [system, user, assistant, result, ...rest] = explainTools("generic", messages, [
    { type: "function", function: { name: "weather", parameters: { type: "object" } } },
  ]);
  expect(rest).toEqual([]);
  expect(system!.content).toContain(
    '{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}',
  );
  expect(user!.content).toBe("Weather?");
  // What past calls look like is what the parser reads.
  const read = collect("generic", [assistant!.content]);
  expect(read.calls.map((call) => [call.name, call.arguments])).toEqual([["weather", '{"city":"Paris"}']]);
  expect(result).toEqual({
    role: "user",
    content: "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>",
  });
  expect(explainTools("hermes", messages, [])).toEqual(messages);
});

test("Mistral's templates get ids of nine letters and digits, equal on both sides", () => {
  const id = "call_ABCDEFGHIJKLMNOPQRSTUVWX";
  const messages = plainMessages([
    { role: "assistant", tool_calls: [{ id, function: { name: "time", arguments: "{}" } }] },
    { role: "tool", tool_call_id: id, content: "noon" },
    { role: "tool", tool_call_id: "7", content: "noon" },
  ]);
  const [call, answer, odd] = explainTools("mistral", messages, []);
  expect(call!.tool_calls![0]!.id).toBe("PQRSTUVWX");
  expect(answer!.tool_call_id).toBe("PQRSTUVWX");
  expect(odd!.tool_call_id).toBe("000000007");
});

describe("grammar", () => {
  const declared = tools.map((name) => ({
    type: "function" as const,
    function: { name, parameters: { type: "object" } },
  }));

  /** A text that the grammar accepts; schemas become `paris`. */
  function example(spec: GrammarSpec, next: () => number): string {
    switch (spec.kind) {
      case "literal":
        return spec.text;
      case "sequence":
        return spec.parts.map((part) => example(part, next)).join("");
      case "choice":
        return example(spec.options[Math.floor(next() * spec.options.length)]!, next);
      case "repeat": {
        const most = spec.max ?? 3;
        const count = spec.min + Math.floor(next() * (Math.min(most, 3) - spec.min + 1));
        return Array.from({ length: count }, () => example(spec.part, next)).join(spec.separator);
      }
      default:
        return paris;
    }
  }

  test.each(["hermes", "llama3", "mistral", "generic"] as const)(
    "%s: everything it accepts is read as calls alone",
    (format) => {
      const next = random(1);
      let several = 0;
      for (let round = 0; round < 100; round++) {
        const text = example(toolGrammar(format, declared, "required", true)!, next);
        const { content, calls } = collect(format, inPieces(text, next));
        expect(content).toBe("");
        expect(calls.length).toBeGreaterThan(0);
        for (const call of calls) expect(call.arguments).toBe(paris);
        if (calls.length > 1) several++;
      }
      expect(several).toBeGreaterThan(10);
    },
  );

  test("a named choice and parallel false allow one call, of the named tool", () => {
    const next = random(1);
    const named = toolGrammar("hermes", declared, { name: "time" }, true)!;
    expect(named).toMatchObject({ kind: "repeat", min: 1, max: 1 });
    expect(collect("hermes", [example(named, next)]).calls[0]!.name).toBe("time");
    expect(toolGrammar("hermes", declared, "required", false)).toMatchObject({ max: 1 });
    expect(toolGrammar("hermes", declared, { name: "nothing" }, true)).toBeNull();
  });
});
