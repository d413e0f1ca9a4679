/** POST /v1/reports: a person found an answer alarming; it waits in the database until somebody reviews it. */
import { addFlag } from "../../store/flags.ts";
import type { Store } from "../../store/store.ts";
import { RequestError } from "../../util/errors.ts";
import { defineRoute } from "../route.ts";
import { reportRequestSchema, reportSchema } from "../schema/reports.ts";

/** Of all who use the server: reports need no key, and must not fill the disk. */
const reportsPerMinute = 20;
const recent = new WeakMap<Store, number[]>();

/** Throws where the last minute had too many. */
function countReport(store: Store): void {
  const now = Date.now();
  const times = (recent.get(store) ?? []).filter((time) => time > now - 60_000);
  if (times.length >= reportsPerMinute)
    throw new RequestError(`This server takes ${reportsPerMinute} reports a minute. Try again later.`, {
      status: 429,
      code: "too_many_reports",
      retryAfterMs: times[0]! + 60_000 - now,
    });
  recent.set(store, [...times, now]);
}

export const reportRoute = defineRoute({
  method: "post",
  path: "/v1/reports",
  operationId: "reportAnswer",
  tag: "Operations",
  summary: "Report an answer",
  description:
    "Question and answer are stored as they are, with the category and the note, for `koala flags`. Needs --reports.",
  request: reportRequestSchema,
  response: reportSchema,
  handle: async (c, call) => {
    const store = call.context.reports;
    if (store === null)
      throw new RequestError("This server takes no reports. Start it with --reports.", {
        status: 404,
        code: "no_reports",
      });
    countReport(store);
    const { model, prompt, answer, category, note } = call.body;
    const flag = await addFlag(store, {
      source: "chat",
      reference: null,
      model: model || null,
      prompt: prompt || null,
      answer,
      category,
      note: note?.trim() || null,
    });
    return c.json({ id: flag.id, object: "report", created: Math.floor(flag.createdAt.getTime() / 1000) });
  },
});
