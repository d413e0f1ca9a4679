/** Part 8 of the report: results by topic, and every prompt with its answers, votes and flags, folded up. */
import type { Vote } from "../comparison.ts";
import { clusterScore, clustersOf, latestVotes } from "../statistics/clusters.ts";
import { winnerOf } from "../statistics/raters.ts";
import { type Pair, pairName, type StudyData } from "../study_data.ts";
import { headlineTable } from "./headline.ts";
import { type Html, html, table } from "./html.ts";
import { percent } from "./numbers.ts";
import type { Label } from "./page.ts";
import type { Results } from "./results.ts";

export function browserSection(results: Results, data: StudyData, label: Label): Html {
  const { study } = data;
  const real = latestVotes(data.votes).filter(
    (vote) => vote.kind === "real" && vote.criterion === results.criterion,
  );
  const excluded = new Set(
    results.raters.filter((rater) => rater.excluded.length > 0).map(({ rater }) => rater),
  );
  const votes = Map.groupBy(real, ({ question }) => question);
  const scores = new Map(study.pairs.map((pair) => [pairName(pair), scoresOf(real, excluded, pair)]));
  return html`<h2 id="prompts">8. Prompts</h2>
    ${results.topics.map(
      ({ topic, headline }) =>
        html`<h3>Topic: ${topic}</h3>
          ${headlineTable(headline, label)}`,
    )}
    <div class="browser">
      ${study.questions.map(({ id, text }) => {
        const summary = study.pairs.flatMap((pair) => {
          const score = scores.get(pairName(pair))!.get(id);
          return score === undefined ? [] : [`${label(pair[0])} vs ${label(pair[1])} ${percent(score, 0)}`];
        });
        return html`<details>
          <summary>${firstLine(text)} <span class="quiet">${[id, ...summary].join(" · ")}</span></summary>
          <div class="text-block">${text}</div>
          ${answersOf(data, id, label)} ${votesTable(votes.get(id) ?? [], excluded, label)}
        </details> `;
      })}
    </div>`;
}

function scoresOf(votes: readonly Vote[], excluded: ReadonlySet<string>, pair: Pair): Map<string, number> {
  const kept = votes.filter(({ rater }) => !excluded.has(rater));
  return new Map(clustersOf(kept, pair).map((cluster) => [cluster.question, clusterScore(cluster)]));
}

function answersOf({ answers, study }: StudyData, question: string, label: Label): Html {
  const flags = (system: string) =>
    study.flags.filter((flag) => flag.question === question && flag.system === system);
  return html`<div class="answers">
    ${answers
      .filter((answer) => answer.question === question)
      .map(
        ({ system, text, finish }) =>
          html`<section>
            <h4>
              ${label(system)}${finish === "stop" ? null : html` <span class="quiet">(${finish})</span>`}
            </h4>
            <div class="text-block">${text}</div>
            ${flags(system).map(({ category, note }) => html`<p class="quiet">Flagged: ${category}. ${note}</p>`)}
          </section>`,
      )}
  </div>`;
}

function votesTable(votes: readonly Vote[], excluded: ReadonlySet<string>, label: Label): Html {
  if (votes.length === 0) return html`<p class="quiet">No votes.</p>`;
  return table(
    ["Pair", "Winner", "Left", "Rater", "Note", "Seconds"],
    votes.map((vote) => {
      const winner = winnerOf(vote);
      return [
        `${label(vote.systemA)} vs ${label(vote.systemB)}`,
        winner === null ? (vote.verdict === "tie" ? "tie" : "both bad") : label(winner),
        label(vote.left === "a" ? vote.systemA : vote.systemB),
        excluded.has(vote.rater) ? `${vote.rater} (excluded)` : vote.rater,
        vote.note,
        vote.dwellMs === null ? "–" : (vote.dwellMs / 1000).toFixed(1),
      ];
    }),
    5,
  );
}

const firstLine = (text: string): string => {
  const letters = [...text.trim().split("\n")[0]!];
  return letters.length <= 110 ? letters.join("") : `${letters.slice(0, 109).join("")}…`;
};
