import { expect, test } from "bun:test";
import { htmlToMarkdown } from "../../../src/data/sources/html.ts";

/** As ChatGPT's page of spring 2023 held an answer. */
const page = [
  '<div class="markdown prose w-full break-words dark:prose-invert light"><p>Use <code>a_b*c</code> if 1 &lt; 2 &amp; <strong>not</strong> snake_case:</p>',
  '<pre><div class="bg-black rounded-md mb-4"><div class="flex items-center"><span>python</span><button class="flex ml-auto gap-2"><svg><path d="M1"></path></svg>Copy code</button></div>',
  '<div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs language-python"><span class="hljs-keyword">if</span> a &lt; 3:\n    print(<span class="hljs-string">"x"</span>)\n\n    # `tick`\n</code></div></div></pre>',
  "<ol><li><p>First</p></li><li><p>Second</p><ul><li>inner</li><li>other</li></ul></li></ol>",
  '<ol start="3"><li>Third</li></ol>',
  "<table><thead><tr><th>a</th><th>b|c</th></tr></thead><tbody><tr><td>1</td><td>two<br>lines</td></tr></tbody></table>",
  '<p>See <a href="https://example.org/x_y">here</a>.</p><h3>End</h3></div>',
].join("");

test("a saved answer becomes the Markdown that it was", () => {
  const lines = htmlToMarkdown(page)
    .split("\n")
    .map((line) => line.trimEnd());
  expect(lines.join("\n").replace(/\n{2,}/g, "\n\n")).toBe(
    [
      "Use `a_b*c` if 1 < 2 & **not** snake_case:",
      "",
      "```python",
      "if a < 3:",
      '    print("x")',
      "",
      "    # `tick`",
      "```",
      "",
      "1. First",
      "2. Second",
      "",
      "   - inner",
      "   - other",
      "",
      "3. Third",
      "",
      "| a | b\\|c |",
      "| --- | --- |",
      "| 1 | two lines |",
      "",
      "See [here](https://example.org/x_y).",
      "",
      "### End",
    ].join("\n"),
  );
});

test("code with fences in it gets a longer fence, and keeps every blank", () => {
  const code = "a\n```\n  b\n\n\tc ";
  expect(htmlToMarkdown(`<pre><code>${code}\n</code></pre>`)).toBe(`\`\`\`\`\n${code}\n\`\`\`\``);
});
