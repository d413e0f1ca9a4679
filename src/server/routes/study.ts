/** /study/CODE/…: what a rater's page asks. Public: the code in the address is the key.
 *  Always: answers are the same for every kind of item, and name no system. */
import type { Context } from "hono";
import { addFlag } from "../../store/flags.ts";
import type { Store } from "../../store/store.ts";
import { addRater, codeHash, consent, type Submit } from "../../store/study_raters.ts";
import { assignmentsOf } from "../../store/study_votes.ts";
import { itemTexts } from "../../store/studies.ts";
import { RequestError } from "../../util/errors.ts";
import { defineRoute, type Call, type Route } from "../route.ts";
import {
  beginRequestSchema,
  beginSchema,
  completionSchema,
  flaggedSchema,
  flagRequestSchema,
  nextRequestSchema,
  nextTaskSchema,
  progressSchema,
  studyStateSchema,
  taskSchema,
  voteRequestSchema,
  type BeginRequest,
} from "../schema/study.ts";
import { newRaterCode, workerCode } from "../study/codes.ts";
import type { Study } from "../study/import_study.ts";
import {
  admit,
  admitRater,
  assignmentOf,
  completion,
  nextTask,
  openTask,
  progressOf,
  vote,
} from "../study/session.ts";

const tag = "Studies";
const shared = { tag, public: true } as const;

function storeOf(call: Call<unknown>): Store {
  if (call.context.studies !== null) return call.context.studies;
  throw new RequestError("This server has no studies. koala study serve starts one that has.", {
    status: 404,
    code: "no_studies",
  });
}

const codeOf = (c: Context): string => c.req.param("code") ?? "";

/** No proxy and no browser keeps what a rater was shown or said. */
function fresh(c: Context, body: object): Response {
  return c.json(body, 200, { "cache-control": "no-store" });
}

const stateRoute = defineRoute({
  ...shared,
  method: "get",
  path: "/study/:code/state",
  operationId: "studyState",
  summary: "What the study is about and how far this rater is",
  response: studyStateSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    const { study, rater } = await admit(store, codeOf(c));
    const { instructions, consent: terms, criteria } = study.config;
    return fresh(c, {
      title: study.title,
      instructions,
      consent: terms,
      criteria,
      open: rater === null,
      consented: rater !== null && rater.consentAt !== null,
      ...progressOf(rater === null ? [] : await assignmentsOf(store, rater.id)),
    });
  },
});

const beginRoute = defineRoute({
  ...shared,
  method: "post",
  path: "/study/:code/consent",
  operationId: "beginStudy",
  summary: "Agree to take part",
  request: beginRequestSchema,
  response: beginSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    const code = codeOf(c);
    const { study, rater } = await admit(store, code);
    if (rater !== null) await consent(store, rater.id);
    return fresh(c, { code: rater === null ? await enrol(store, study, call.body) : code });
  },
});

/** A rater of the open link: a platform's worker keeps the same code, anybody else gets a new one. */
async function enrol(store: Store, study: Study, body: BeginRequest): Promise<string> {
  const { worker_id: worker, prolific_pid: participant } = body;
  const platform = worker ? "mturk" : participant ? "prolific" : "open";
  const code =
    platform === "open" ? newRaterCode() : workerCode(study, platform, (worker ?? participant) as string);
  const submit = platform === "mturk" ? turkSubmit(body) : null;
  const rater = await addRater(store, { studyId: study.id, inviteHash: codeHash(code), platform, submit });
  await consent(store, rater.id);
  return code;
}

/** A page that sends votes elsewhere than to Mechanical Turk would be an open redirect. */
const turkHosts = ["https://www.mturk.com", "https://workersandbox.mturk.com"];

function turkSubmit({ turk_submit_to: host, assignment_id: assignmentId }: BeginRequest): Submit | null {
  if (!host || !assignmentId) return null;
  const origin = URL.canParse(host) ? new URL(host).origin : "";
  if (turkHosts.includes(origin)) return { url: `${origin}/mturk/externalSubmit`, fields: { assignmentId } };
  throw new RequestError(`turk_submit_to must be one of ${turkHosts.join(", ")}.`, {
    param: "turk_submit_to",
    code: "invalid_value",
  });
}

const nextRoute = defineRoute({
  ...shared,
  method: "post",
  path: "/study/:code/next",
  operationId: "nextStudyTask",
  summary: "The next item to rate; null at the end",
  description: "The same item until it has its vote, so that a closed tab loses nothing.",
  request: nextRequestSchema,
  response: nextTaskSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    return fresh(c, await nextTask(store, await admitRater(store, codeOf(c))));
  },
});

const taskRoute = defineRoute({
  ...shared,
  method: "get",
  path: "/study/:code/items/:item",
  operationId: "studyTask",
  summary: "An item that this rater has seen, to correct the vote",
  response: taskSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    const session = await admitRater(store, codeOf(c));
    const { assignment } = await assignmentOf(store, { id: c.req.param("item")!, raterId: session.rater.id });
    if (assignment.shownAt === null) throw new RequestError("This item comes later.", { status: 404 });
    return fresh(c, await openTask(store, session, assignment.id));
  },
});

const voteRoute = defineRoute({
  ...shared,
  method: "post",
  path: "/study/:code/votes",
  operationId: "voteInStudy",
  summary: "Vote, or correct a vote",
  description: "Votes are only added; of an item's votes the last one counts.",
  request: voteRequestSchema,
  response: progressSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    const { item, choice, criteria, note, dwell_ms: dwellMs } = call.body;
    const press = { item, choice, criteria: criteria ?? {}, note: note || null, dwellMs: dwellMs ?? null };
    return fresh(c, await vote(store, await admitRater(store, codeOf(c)), press));
  },
});

const flagRoute = defineRoute({
  ...shared,
  method: "post",
  path: "/study/:code/flags",
  operationId: "flagStudyAnswer",
  summary: "Report an answer",
  request: flagRequestSchema,
  response: flaggedSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    const { rater } = await admitRater(store, codeOf(c));
    const { item: id, side, category, note } = call.body;
    const { assignment, item } = await assignmentOf(store, { id, raterId: rater.id });
    const texts = await itemTexts(store, item);
    const answer = (assignment.left === "a") === (side === "left") ? texts.a : texts.b;
    const about = { reference: answer.id, model: answer.system, prompt: texts.question, answer: answer.text };
    await addFlag(store, { source: "study", ...about, category, note: note || null });
    return fresh(c, { reported: true });
  },
});

const doneRoute = defineRoute({
  ...shared,
  method: "get",
  path: "/study/:code/done",
  operationId: "finishStudy",
  summary: "The completion code, once everything is rated",
  response: completionSchema,
  handle: async (c, call) => {
    const store = storeOf(call);
    return fresh(c, await completion(store, await admitRater(store, codeOf(c))));
  },
});

export const studyRoutes: readonly Route[] = [
  stateRoute,
  beginRoute,
  nextRoute,
  taskRoute,
  voteRoute,
  flagRoute,
  doneRoute,
];
