/** The training page as a set of responses: the document at "/training" and the script, style and icon that it names. */
import { buildPages, type Page } from "../pages.ts";
import bundle from "./index.html";

export function loadTrainingPages(): Promise<Map<string, Page>> {
  loading ??= buildPages(bundle, "/training");
  return loading;
}

let loading: Promise<Map<string, Page>> | null = null;
