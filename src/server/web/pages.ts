/** The chat page as a set of responses: the document at "/" and the script, style and icon that it names.
 *  The HTML import is bundled by whoever bundles this file, so the compiled binary holds the finished pages; from source
 *  they are bundled once, in memory, on first use. Both serve the same thing, through the server's own middleware (Bun's own
 *  HTML routes would go around it: no authentication, no headers). */
import { basename } from "node:path";
import bundle from "./index.html";

export interface Page {
  body: Uint8Array<ArrayBuffer> | string;
  headers: Record<string, string>;
}

/** By path. The document is checked for freshness each time; the rest has its hash in its name and is never asked for again. */
export function loadPages(): Promise<Map<string, Page>> {
  loading ??= buildPages(bundle, "/");
  return loading;
}

let loading: Promise<Map<string, Page>> | null = null;

/** An imported HTML file: its bundle in the executable, the path of its source otherwise. */
export type HtmlBundle = typeof bundle;

/** The document at `place`, and what it names. */
export async function buildPages(bundle: HtmlBundle, place: string): Promise<Map<string, Page>> {
  const files =
    bundle.files === undefined
      ? await bundleFromSource(bundle)
      : bundle.files.map(({ path }) => ({ path, file: Bun.file(path) }));
  const pages = new Map<string, Page>();
  for (const { path, file } of files) {
    const body = new Uint8Array(await file.arrayBuffer());
    const isDocument = path.endsWith(".html");
    const headers = { ...headersOf(body, file.type), ...(isDocument ? documentHeaders : assetHeaders) };
    pages.set(isDocument ? place : `/${basename(path)}`, { body, headers });
  }
  return pages;
}

/** The chat page of a server that has another page, which it then links to. */
export function linkingTo(place: "/training", chat: PageLike): Page {
  return withMeta(chat, "koala-page", place);
}

/** The chat page of a server that stores reports, with a button for them. */
export const takingReports = (chat: PageLike): Page => withMeta(chat, "koala-reports", "1");

type PageLike = Pick<Page, "headers"> & { body: string | Uint8Array };

function withMeta(page: PageLike, name: string, content: string): Page {
  const html = typeof page.body === "string" ? page.body : new TextDecoder().decode(page.body);
  const body = new TextEncoder().encode(
    html.replace("</head>", `<meta name="${name}" content="${content}" /></head>`),
  );
  return { body, headers: { ...page.headers, etag: etagOf(body) } };
}

async function bundleFromSource(bundle: HtmlBundle): Promise<{ path: string; file: Blob }[]> {
  const built = await Bun.build({
    entrypoints: [bundle.index],
    target: "browser",
    minify: true,
    define: { "process.env.NODE_ENV": '"production"' },
  });
  return built.outputs.map((output) => ({ path: output.path, file: output }));
}

/** Nothing but this server's own files; no inline script or style; markup only from the sanitizer (Trusted Types). */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types dompurify",
].join("; ");

const documentHeaders = {
  "cache-control": "no-cache",
  "content-security-policy": contentSecurityPolicy,
  "cross-origin-opener-policy": "same-origin",
  "permissions-policy": "camera=(), geolocation=(), microphone=()",
  "referrer-policy": "no-referrer",
  "x-frame-options": "DENY",
};

const assetHeaders = { "cache-control": "public, max-age=31536000, immutable" };

function headersOf(body: Uint8Array, type: string): Record<string, string> {
  return {
    "content-type": type,
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    etag: etagOf(body),
  };
}

const etagOf = (body: Uint8Array): string => `"${Bun.hash(body).toString(36)}"`;
