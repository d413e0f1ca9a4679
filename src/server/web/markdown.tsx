/** An answer's markdown as elements. The text comes from a model, so nothing in it is trusted: raw HTML is shown as text,
 *  images become links (loading one would tell its host about this chat), what is left passes DOMPurify's short list, and the
 *  page's Content-Security-Policy stands behind that.
 *  Blocks are drawn one by one, so that a growing answer redraws only its last one. */
import DOMPurify from "dompurify";
import { Marked, type Token } from "marked";
import { useMemo, useState } from "preact/hooks";
import { CheckIcon, CopyIcon } from "./icons.tsx";

export function Markdown({ text }: { text: string }) {
  // The elements are kept, not only the tokens: a finished answer costs nothing while another one grows.
  const blocks = useMemo(
    () => marked.lexer(text).map((token, index) => <Block key={index} token={token} />),
    [text],
  );
  return <div class="prose">{blocks}</div>;
}

function Block({ token }: { token: Token }) {
  if (token.type === "space" || token.type === "def") return null;
  if (token.type === "code") return <CodeBlock text={token["text"]} language={firstWord(token["lang"])} />;
  return <HtmlBlock html={marked.parser([token])} wide={token.type === "table"} />;
}

function HtmlBlock({ html, wide }: { html: string; wide: boolean }) {
  const trusted = useMemo(() => sanitize(html), [html]);
  // A wide table scrolls in its own box, which the keyboard must be able to reach.
  const box = wide ? ({ class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" } as const) : {};
  return <div {...box} dangerouslySetInnerHTML={{ __html: trusted }} />;
}

function CodeBlock({ text, language }: { text: string; language: string }) {
  return (
    <figure class="code">
      <figcaption>
        <span>{language || "code"}</span>
        <CopyButton text={text} label="Copy code" />
      </figcaption>
      <pre tabIndex={0}>
        <code>{text}</code>
      </pre>
    </figure>
  );
}

export function CopyButton({ text, label }: { text: string; label: string }) {
  const [state, setState] = useState<"idle" | "copied" | "failed">("idle");
  const copy = async () => {
    setState((await copyText(text)) ? "copied" : "failed");
    setTimeout(() => setState("idle"), 1500);
  };
  const shown = state === "copied" ? "Copied" : state === "failed" ? "Copying is not allowed here" : label;
  return (
    <button type="button" class="quiet" onClick={copy} title={shown} aria-label={shown}>
      {state === "copied" ? <CheckIcon /> : <CopyIcon />}
    </button>
  );
}

/** The clipboard API exists only on https and localhost; the old command works on a plain http address in the network too. */
async function copyText(text: string): Promise<boolean> {
  if (navigator.clipboard !== undefined) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not permitted: try the command
    }
  }
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return copied;
}

const marked = new Marked({
  gfm: true,
  breaks: true, // models end lines where they want them to end
  renderer: {
    html: ({ text, block }) => {
      if (/^<br\s*\/?>$/i.test(text.trim())) return "<br>";
      return block ? `<p>${escapeHtml(text.trim())}</p>` : escapeHtml(text);
    },
    image: ({ href, text }) => `<a href="${escapeHtml(href)}">${escapeHtml(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const allowedTags =
  "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s strong sub sup table tbody td th thead tr ul".split(
    " ",
  );

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** Typed as string for Preact, but a TrustedHTML where the browser enforces Trusted Types, as the page's policy asks. */
function sanitize(html: string): string {
  const clean = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: allowedTags,
    ALLOWED_ATTR: ["href", "title", "start", "align"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_TRUSTED_TYPE: true,
  });
  return clean as unknown as string;
}

function escapeHtml(text: string): string {
  const names: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
  };
  return text.replace(/[&<>"']/g, (character) => names[character] ?? character);
}

function firstWord(text: unknown): string {
  return typeof text === "string" ? (text.trim().split(/\s+/)[0] ?? "") : "";
}
