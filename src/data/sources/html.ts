/** HTML of saved chat pages back to the Markdown that it was rendered from.
 *  Always: code keeps every character and its language; buttons ("Copy code") and pictures of the page are gone; text is not
 *  escaped, since the model's own Markdown was not. */
import TurndownService from "turndown";

export function htmlToMarkdown(html: string): string {
  return (service ??= createService()).turndown(html).trim();
}

let service: TurndownService | null = null;

function createService(): TurndownService {
  const created = new TurndownService({
    headingStyle: "atx",
    hr: "---",
    bulletListMarker: "-",
    codeBlockStyle: "fenced",
    emDelimiter: "*",
  });
  created.escape = (text) => text;
  created.remove(["button", "style", "script", "noscript", "title"]);
  created.addRule("svg", { filter: (node) => node.nodeName.toLowerCase() === "svg", replacement: () => "" });
  created.addRule("code block", {
    filter: "pre",
    replacement: (_content, node) => codeBlock(node as Element),
  });
  created.addRule("list item", {
    filter: "li",
    replacement: (content, node) => listItem(content, node as Element),
  });
  created.addRule("cell", {
    filter: ["th", "td"],
    replacement: (content) =>
      ` ${content
        .trim()
        .replace(/\s*\n\s*/g, " ")
        .replaceAll("|", "\\|")} |`,
  });
  created.addRule("row", { filter: "tr", replacement: (content, node) => row(content, node as Element) });
  created.addRule("table", {
    filter: ["table", "thead", "tbody", "tfoot"],
    replacement: (content, node) => (node.nodeName === "TABLE" ? `\n\n${content.trim()}\n\n` : content),
  });
  return created;
}

/** The page shows a bar with language and button above the code, all inside `pre`. */
function codeBlock(pre: Element): string {
  const code = pre.querySelector("code");
  const classes = code?.getAttribute("class") ?? "";
  const bar = /^\s*([\w+#.-]*?)\s*Copy code/.exec(pre.textContent ?? "");
  const language = /\blanguage-([\w+#.-]+)/.exec(classes)?.[1] ?? bar?.[1] ?? "";
  const text = code?.textContent ?? (pre.textContent ?? "").replace(bar?.[0] ?? "", "");
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`{3,}/g)].map(([run]) => run.length + 1)));
  return `\n\n${fence}${language}\n${text.replace(/\n$/, "")}\n${fence}\n\n`;
}

function listItem(content: string, item: Element): string {
  const list = item.parentElement;
  const start = Number(list?.getAttribute("start") ?? 1);
  const index = Array.from(list?.children ?? []).indexOf(item);
  const mark = list?.nodeName === "OL" ? `${start + Math.max(index, 0)}. ` : "- ";
  const text = content.trim().replace(/\n(?=[^\n])/g, `\n${" ".repeat(mark.length)}`);
  return `${mark}${text}${item.nextElementSibling ? "\n" : ""}`;
}

/** The first row of a table is its head. */
function row(content: string, element: Element): string {
  const section = element.parentElement;
  const first = element.previousElementSibling === null && section?.previousElementSibling == null;
  const rule = first ? `\n|${" --- |".repeat(element.children.length)}` : "";
  return `\n|${content.trimEnd()}${rule}`;
}
