import { describe, expect, test } from "bun:test";
import { htmlToMarkdown } from "../../src/data/html_markdown.ts";

describe("HTML of scraped answers", () => {
  test("becomes the Markdown it was rendered from", () => {
    for (const [html, markdown] of [
      ["<p>A <strong>b</strong> and <em>c</em>.</p>", "A **b** and *c*."],
      ['<div class="markdown prose"><h2>T</h2><ol><li>x</li><li>y</li></ol></div>', "## T\n\n1. x\n2. y"],
      [
        '<pre><div><span>python</span><button>Copy code</button></div><code class="language-python">if a &lt; b:\n    f()\n</code></pre>',
        "```python\nif a < b:\n    f()\n```",
      ],
      [
        "<table><thead><tr><th>A</th><th>B</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>",
        "| A | B |\n| --- | --- |\n| 1 | 2 |",
      ],
    ] as const)
      expect(htmlToMarkdown(html)).toEqual({ text: markdown, changed: true });
  });

  test("plain text, Markdown and code with signs of HTML stay to the letter", () => {
    for (const text of [
      "if a < b and c > d then",
      "<p>is a paragraph's tag, and 1 < 2</p>",
      "Use <div> for blocks.",
      "# Title\n<p>inline</p>",
      "<html><body><p>Hi</p></body></html>",
      "<div><script>run()</script></div>",
      "<p>never closed",
      "```html\n<p>x</p>\n```",
      "",
    ])
      expect(htmlToMarkdown(text)).toEqual({ text, changed: false });
  });
});
