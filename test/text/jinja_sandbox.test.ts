import { expect, test } from "bun:test";
import { Template } from "@huggingface/jinja";
import { compileTemplate } from "../../src/text/jinja_sandbox.ts";
import { RequestError } from "../../src/util/errors.ts";

const hostile: [what: string, source: string, sentence: RegExp][] = [
  ["a range of a billion", "{% for i in range(10**9) %}{% endfor %}", /list of more than 200000 values/],
  [
    "nested ranges with empty bodies",
    "{% set r = range(100000) %}{% for i in r %}{% for j in r %}{% for k in r %}{% endfor %}{% endfor %}{% endfor %}",
    /more than 1000 ms|more than 2000000 steps/,
  ],
  [
    "nested ranges with a filter that is never true",
    "{% set r = range(100000) %}{% for i in r %}{% for j in r if false %}{% endfor %}{% endfor %}",
    /more than 1000 ms|more than 2000000 steps/,
  ],
  [
    "a text doubled for ever",
    "{% set n = namespace(s='a') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    /text of more than 8388608 characters/,
  ],
  [
    "a text doubled in a set block",
    "{% set n = namespace(s='a') %}{% for i in range(64) %}{% set x %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = x %}{% endfor %}",
    /text of more than/,
  ],
  [
    "a text that replaces its own letters",
    "{% set n = namespace(s='aaaaaaaaaa') %}{% for i in range(64) %}{% set n.s = n.s.replace('a', n.s) %}{% endfor %}",
    /text of more than/,
  ],
  [
    "the same through a computed name",
    "{% set n = namespace(s='aaaaaaaaaa') %}{% for i in range(64) %}{% set n.s = n.s['rep' ~ 'lace']('a', n.s) %}{% endfor %}",
    /text of more than/,
  ],
  [
    "the same through a filter",
    "{% set n = namespace(s='aaaaaaaaaa') %}{% for i in range(64) %}{% set n.s = n.s | replace('a', n.s) %}{% endfor %}",
    /text of more than/,
  ],
  [
    "a list that holds itself twice",
    "{% set n = namespace(s=[1]) %}{% for i in range(64) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    /list of more than/,
  ],
  [
    "a list added to itself",
    "{% set n = namespace(s=[1]) %}{% for i in range(64) %}{% set n.s = n.s + n.s %}{% endfor %}",
    /list of more than/,
  ],
  ["an indent of a billion", "{{ 'a\nb' | indent(10**9) }}", /text of more than/],
  ["JSON indented by a billion", "{{ [[1]] | tojson(indent=10**9) }}", /text of more than/],
  [
    "a join with a long separator",
    "{% set n = namespace(s='a') %}{% for i in range(20) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ range(100000) | join(n.s) }}",
    /text of more than/,
  ],
  [
    "a macro that calls itself",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    /nests deeper than 400 levels/,
  ],
  [
    "a namespace in itself",
    "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    /nests or grows without end/,
  ],
];

for (const [what, source, sentence] of hostile) {
  test(`${what} ends with one sentence`, () => {
    const before = performance.now();
    const template = compileTemplate(source, "test");
    expect(() => template.render({})).toThrow(sentence);
    expect(() => template.render({}, { limits: { timeMs: 200 } })).toThrow(RequestError);
    expect(performance.now() - before).toBeLessThan(3000);
  });
}

test("nothing of the host can be reached", () => {
  const source =
    "{{ ''.constructor }}{{ x.__proto__ }}{{ x.constructor }}{{ range.constructor }}{{ raise_exception.prototype }}{{ process }}{{ globalThis }}{{ Bun }}";
  expect(compileTemplate(source, "test").render({ x: { a: 1 } })).toBe("");
});

test("a variable cannot take the place of a function of ours", () => {
  const template = compileTemplate("{{ range(2) | length }}{{ none is none }}", "test");
  expect(template.render({ range: "no", none: 3 })).toBe("2true");
});

test("raise_exception is a request's error with the template's words", () => {
  const template = compileTemplate("{{ raise_exception('Roles must alternate.') }}", "test");
  expect(() => template.render({})).toThrow(new RequestError("Roles must alternate."));
});

test("a broken template is refused when it is compiled, a failing one when it renders", () => {
  expect(() => compileTemplate("{% for x in %}", "m/chat_template.jinja")).toThrow(
    /chat template in m\/chat_template\.jinja cannot be read/,
  );
  expect(() => compileTemplate("(".repeat(10), "t").render({})).not.toThrow();
  expect(() => compileTemplate(`{{ ${"(".repeat(200_000)} }}`, "t")).toThrow(/cannot be read/);
  expect(() => compileTemplate("{{ x.y.z() }}", "t").render({ x: { y: null } })).toThrow(
    /The chat template failed: /,
  );
});

test("long replacements, deep concatenations and large conversations are no attack", () => {
  const long = "y".repeat(1_000_000);
  expect(compileTemplate("{{ 'a $T b'.replace('$T', x) }}", "t").render({ x: long })).toBe(`a ${long} b`);
  const sum = Array.from({ length: 150 }, () => "x").join(" ~ ");
  expect(compileTemplate(`{{ ${sum} }}`, "t").render({ x: "ab" })).toBe("ab".repeat(150));
  const messages = Array.from({ length: 2000 }, (_, i) => ({
    role: i % 2 ? "assistant" : "user",
    content: "word ".repeat(100),
  }));
  const source =
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] | trim }}{% if not loop.last and messages[loop.index].role == m.role %}!{% endif %}{% endfor %}";
  expect(compileTemplate(source, "t").render({ messages })).toBe(new Template(source).render({ messages }));
});

test("dates are Python's, in English", () => {
  const now = new Date(2024, 6, 5, 14, 3, 9);
  expect(
    compileTemplate("{{ strftime_now('%d %b %Y %B %A %a %H:%M:%S %I %p %y %m %% %Q') }}", "t").render(
      {},
      { now },
    ),
  ).toBe("05 Jul 2024 July Friday Fri 14:03:09 02 PM 24 07 % %Q");
});

test("a source is compiled once", () => {
  expect(compileTemplate("{{ 1 }}", "a")).toBe(compileTemplate("{{ 1 }}", "b"));
  const first = compileTemplate("{{ 'first' }}", "a");
  for (let i = 0; i < 40; i++) compileTemplate(`{{ ${i} }}`, "a");
  expect(compileTemplate("{{ 'first' }}", "a")).not.toBe(first);
});
