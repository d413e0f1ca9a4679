/** The rating page as a set of responses: the document for every invite code, and the script, style and icon that it names.
 *  Its policy differs from the chat page's in two points: Mechanical Turk shows it in a frame and takes its last form. */
import { buildPages, type Page } from "../pages.ts";
import bundle from "./index.html";

const place = "/study/:code";
const turk = "https://worker.mturk.com https://workersandbox.mturk.com https://www.mturk.com";

export function loadRatingPages(): Promise<Map<string, Page>> {
  return (loading ??= buildRatingPages());
}

let loading: Promise<Map<string, Page>> | null = null;

async function buildRatingPages(): Promise<Map<string, Page>> {
  const built = await buildPages(bundle, place);
  const pages = new Map<string, Page>();
  // The document names its files beside itself; they come first, because the document's place fits their paths too.
  for (const [path, page] of built) if (path !== place) pages.set(`/study${path}`, page);
  const document = built.get(place)!;
  const { "x-frame-options": _, ...headers } = document.headers;
  const policy = headers["content-security-policy"]!.replace(
    "form-action 'none'; frame-ancestors 'none'",
    `form-action ${turk}; frame-ancestors 'self' ${turk}`,
  );
  return pages.set(place, { ...document, headers: { ...headers, "content-security-policy": policy } });
}
