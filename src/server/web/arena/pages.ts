/** The arena page as a set of responses: the document at "/arena" and the script, style and icon that it names. */
import { buildPages, type Page } from "../pages.ts";
import bundle from "./index.html";

export function loadArenaPages(): Promise<Map<string, Page>> {
  loading ??= buildPages(bundle, "/arena");
  return loading;
}

let loading: Promise<Map<string, Page>> | null = null;
