/** Flags and the votes' tables on both databases. */
import { expect, test } from "bun:test";
import { addFlag, listFlags, type NewFlag, reviewFlag, type StoredFlag } from "../../src/store/flags.ts";
import type { Page } from "../../src/store/paging.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { addStudy, newStudyId, studyAnswersOf, studyItemsOf } from "../../src/store/studies.ts";
import { addRater, codeHash, consent, findRater } from "../../src/store/study_raters.ts";
import {
  addVotes,
  assignmentsOf,
  findAssignment,
  giveAssignments,
  lastVotes,
} from "../../src/store/study_votes.ts";
import { onEachDatabase } from "../support/stores.ts";

const flag: NewFlag = {
  source: "chat",
  reference: null,
  model: "m",
  prompt: "p",
  answer: "bad",
  category: "harmful",
  note: null,
};

onEachDatabase("flags and studies", (newDatabase) => {
  const withStore = async (work: (store: Store) => Promise<void>) => {
    const store = await openStore(await newDatabase());
    try {
      await work(store);
    } finally {
      await store.close();
    }
  };
  const list = async (store: Store, more: object = {}) =>
    (await listFlags(store, { limit: 10, ...more })) as Page<StoredFlag>;

  test("flags are listed newest first, by state and in pages, until reviewed", () =>
    withStore(async (store) => {
      const ids: string[] = [];
      for (const answer of ["one", "two", "three"]) {
        ids.push((await addFlag(store, { ...flag, answer })).id);
        await Bun.sleep(2); // the order is that of times in milliseconds
      }
      expect((await list(store)).rows.map(({ answer }) => answer)).toEqual(["three", "two", "one"]);
      const first = await list(store, { limit: 2 });
      expect(first.hasMore).toBe(true);
      const rest = await list(store, { limit: 2, after: first.rows[1]!.id });
      expect(rest.rows.map(({ answer }) => answer)).toEqual(["one"]);
      const reviewed = await reviewFlag(store, ids[1]!, "seen");
      expect(reviewed).toMatchObject({ state: "reviewed", review: "seen", reviewedAt: expect.any(Date) });
      expect((await list(store, { state: "open" })).rows.map(({ answer }) => answer)).toEqual([
        "three",
        "one",
      ]);
      expect(await reviewFlag(store, "flag-none", null)).toBeNull();
      expect(await listFlags(store, { limit: 1, after: "flag-none" })).toBe("no such cursor");
    }));

  test("a study, its raters and votes come back as they were written", () =>
    withStore(async (store) => {
      const answers = ["a", "b"].map((system) => ({
        id: `answer-${system}`,
        question: "s/1",
        system,
        text: system,
        finish: "stop",
        leaks: ["koala"],
      }));
      const item = {
        id: "item-1",
        question: "s/1",
        systemA: "a",
        systemB: "b",
        answerA: "answer-a",
        answerB: "answer-b",
        kind: "real",
        expected: null,
        firstLeft: "a",
      };
      const given = { title: "t", sha256: "1", secret: "s", openHash: "h", config: { seed: 3 } };
      const questions = [{ question: "s/1", set: "s", text: "?" }];
      const study = await addStudy(
        store,
        { id: newStudyId(), ...given },
        { questions, answers, items: [item] },
      );
      expect(study.config).toEqual({ seed: 3 });
      expect(await studyAnswersOf(store, study.id)).toMatchObject(answers);
      expect(await studyItemsOf(store, study.id)).toMatchObject([item]);
      const who = { studyId: study.id, inviteHash: codeHash("c"), platform: "invite", submit: null };
      const rater = await addRater(store, who);
      expect((await addRater(store, who)).id).toBe(rater.id);
      await consent(store, rater.id);
      expect((await findRater(store, codeHash("c")))!.consentAt).toBeInstanceOf(Date);
      const plan = () => [{ itemId: "item-1", kind: "real", left: "b", number: 0 }];
      await giveAssignments(store, rater, { awaySince: new Date(0), plan });
      const [assignment] = await assignmentsOf(store, rater.id);
      const vote = (verdict: string) => ({ criterion: "overall", verdict, dwellMs: 5, note: null });
      await addVotes(store, assignment!, [vote("a")]);
      await addVotes(store, assignment!, [vote("tie")]);
      expect(await lastVotes(store, { studyId: study.id })).toMatchObject([{ verdict: "tie", number: 1 }]);
      const found = await findAssignment(store, { id: assignment!.id, raterId: rater.id });
      expect(found!.assignment.votedAt).toBeInstanceOf(Date);
      expect(await findAssignment(store, { id: assignment!.id, raterId: "other" })).toBeNull();
    }));
});
