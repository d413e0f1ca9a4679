/** Parts 3 to 7, 9 and 10 of the report: agreement, integrity, length, ratings, judges, power, method. */
import { defaultRaterModel } from "../statistics/rater_model.ts";
import type { StudyData } from "../study_data.ts";
import { dwellHistogram, lengthPlot } from "./figures.ts";
import { headlineTable, setLabel } from "./headline.ts";
import { type Html, html, table } from "./html.ts";
import { fixed, percent, percentInterval } from "./numbers.ts";
import type { Label } from "./page.ts";
import { fittedDraws, type Results } from "./results.ts";

export function agreementSection({ agreement }: Results): Html {
  const { repeats, repeatsSame } = agreement;
  return html`<h2 id="agreement">3. Agreement between raters</h2>
    ${table(
      ["Measure", "Over", "Value"],
      [
        [
          "Krippendorff’s alpha, nominal",
          `${agreement.items} items with two or more votes`,
          fixed(agreement.krippendorffAlpha, 3),
        ],
        [
          "Fleiss’ kappa",
          `${agreement.fleissItems} items with ${agreement.fleissRatings} votes each`,
          fixed(agreement.fleissKappa, 3),
        ],
        ["Raw agreement of two raters, %", `${agreement.items} items`, percent(agreement.raw)],
        ["… when both name a winner, %", `${agreement.items} items`, percent(agreement.rawWithoutTies)],
        [
          "The same rater again, sides swapped, %",
          `${repeats} repeats`,
          percent(repeats === 0 ? null : repeatsSame / repeats),
        ],
      ],
      2,
    )}
    <p class="quiet">1 is perfect agreement, 0 is chance. Both kinds of ties count as one answer.</p>`;
}

export function integritySection(results: Results, data: StudyData): Html {
  const { orderBias, raters } = results;
  const excluded = raters.filter((rater) => rater.excluded.length > 0);
  const { goldShareMin, medianDwellMsMin } = data.study.raterRule;
  const golds = raters.reduce((sum, rater) => sum + rater.golds, 0);
  const right = raters.reduce((sum, rater) => sum + rater.goldsRight, 0);
  const dwells = data.votes.map(({ dwellMs }) => dwellMs).filter((dwell) => dwell !== null);
  return html`<h2 id="integrity">4. Integrity</h2>
    <p>
      The left answer won ${percent(orderBias.leftShare)} % of the votes that chose a side (95 % interval
      ${percentInterval(orderBias.leftShareInterval)}; ${orderBias.left} left, ${orderBias.right} right). The
      first system stood on the left in ${percent(orderBias.firstOnLeft)} % of the votes.
    </p>
    <p>
      Attention checks: ${right} of ${golds} right. Rule fixed before the study: a rater with less than
      ${percent(goldShareMin, 0)} % of them right, or a median dwell below
      ${fixed(medianDwellMsMin / 1000, 1)} s, is excluded. It excluded ${excluded.length} of ${raters.length}
      raters.
    </p>
    ${
      excluded.length === 0
        ? null
        : table(
            ["Excluded rater", "Why", "Votes"],
            excluded.map(({ rater, excluded: why, votes }) => [rater, why.join("; "), votes]),
            2,
          )
    }
    ${
      dwells.length === 0
        ? html`<p class="quiet">No dwell times were recorded.</p>`
        : html`<figure>
            ${dwellHistogram(dwells, medianDwellMsMin)}
            <figcaption>
              Votes by the time a rater looked at the pair; the other colour marks times below the limit of
              the rule.
            </figcaption>
          </figure>`
    }
    <h3>Answers</h3>
    ${table(
      ["System", "Cut or failed", "Names of models in them", "Answers", "Mean characters", "Name a model"],
      results.systems.map((system) => [
        system.label,
        counts(system.finishes) || "none",
        counts(system.leakWords) || "none",
        system.answers,
        fixed(system.meanCharacters, 0),
        system.identityLeaks,
      ]),
      3,
    )}
    ${leakTable(data)}`;
}

function leakTable({ study: { leaks } }: StudyData): Html {
  if (leaks === null)
    return html`<p class="quiet">Whether the prompts occur in the training data was not checked.</p>`;
  if (leaks.length === 0) return html`<p>No prompt was found in the training data.</p>`;
  return html`<h3>Prompts found in training data</h3>
    ${table(
      ["Prompt", "Rule", "Where", "Score"],
      leaks.map(({ question, rule, source, score }) => [question, rule, source, fixed(score, 2)]),
      3,
    )}`;
}

const counts = (record: Record<string, number>): string =>
  Object.entries(record)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ");

export function lengthSection({ length }: Results, label: Label): Html {
  return html`<h2 id="length">5. Length</h2>
    <p>
      Raters may like an answer for being long. The length-controlled score is what a logistic regression on
      tanh of the standardised length difference gives at equal lengths (after AlpacaEval 2).
    </p>
    ${table(
      ["Pair", "Mean difference, characters", "Slope, logits", "Length-controlled score, %", "95 % interval"],
      length.map(({ pair: [a, b], control }) => {
        const name = `${label(a)} vs ${label(b)}`;
        if ("refusal" in control) return [name, control.refusal, "", "", ""];
        return [
          name,
          fixed(control.meanDifference, 0),
          fixed(control.slope, 2),
          percent(control.score),
          percentInterval(control.interval),
        ];
      }),
    )}
    ${length
      .filter(({ points }) => points.length > 0)
      .map(
        ({ pair: [a, b], points }) =>
          html`<figure>
            ${lengthPlot(points)}
            <figcaption>
              ${label(a)} vs ${label(b)}: one dot a prompt; the line joins the means of five equal groups by
              length.
            </figcaption>
          </figure>`,
      )}`;
}

export function ratingSection({ bradleyTerry: fit, flips, flipFirst }: Results, label: Label): Html {
  return html`<h2 id="ratings">6. Ratings and fragility</h2>
    <h3>Bradley–Terry, Elo scale with mean 1000</h3>
    ${
      "refusal" in fit
        ? html`<p>Refused: ${fit.refusal}</p>`
        : html`${table(
              ["System", "Rating", "95 % interval"],
              fit.systems
                .map((system, index) => ({
                  system,
                  rating: fit.ratings[index]!,
                  interval: fit.intervals[index]!,
                }))
                .sort((one, two) => two.rating - one.rating)
                .map(({ system, rating, interval: [low, high] }) => [
                  label(system),
                  fixed(rating, 0),
                  `${fixed(low, 0)} to ${fixed(high, 0)}`,
                ]),
            )}
            <p class="quiet">
              All systems are connected by votes. ${fit.failedDraws} of ${fit.draws} resamples had no finite
              estimate.
            </p>`
    }
    <h3>Fewest votes to turn a result</h3>
    ${table(
      ["Result", "Votes to drop", "% of votes"],
      [
        ...flips.map(({ pair: [a, b], flip }) => [
          `Who leads, ${label(a)} or ${label(b)}`,
          flip?.votes ?? "–",
          percent(flip?.share ?? null),
        ]),
        ["First place of the ratings", flipFirst?.votes ?? "–", percent(flipFirst?.share ?? null)],
      ],
    )}
    <p class="quiet">
      Found greedily: dropping these votes does turn the result, and fewer might. 0: nobody leads; –: it
      cannot be turned, or there is no rating.
    </p>`;
}

export function judgeSection({ judges }: Results, label: Label): Html {
  if (judges.length === 0)
    return html`<h2 id="judges">7. Automatic judge</h2>
      <p>No automatic judge was asked.</p>`;
  return html`<h2 id="judges">7. Automatic judge</h2>
    ${table(
      [
        "Judge",
        "Calls",
        "Without a verdict",
        "Same verdict with sides swapped, %",
        "Chose the first shown, %",
      ],
      judges.map(({ quality }) => [
        quality.judge,
        quality.calls,
        quality.errors,
        percent(quality.swapped === 0 ? null : quality.consistent / quality.swapped),
        percent(quality.firstShare),
      ]),
    )}
    <p>
      A judge that disagrees with itself when the sides are swapped has called a tie (MT-bench). Against the
      majority of people on each prompt:
    </p>
    ${table(
      ["Judge", "Pair", "Agreement, %", "without ties, %", "Cohen’s kappa", "Prompts", "of them decided"],
      judges.flatMap(({ agreement }) =>
        agreement.map(({ judge, pair, ...row }) => [
          judge,
          `${label(pair[0])} vs ${label(pair[1])}`,
          percent(row.withTies),
          percent(row.withoutTies),
          fixed(row.kappa, 3),
          row.prompts,
          row.decided,
        ]),
      ),
      2,
    )}
    ${judges.map(
      ({ quality, headline }) =>
        html`<h3>Results by ${quality.judge}</h3>
          ${headlineTable(headline, label)}`,
    )}`;
}

export function powerSection({ headline }: Results, label: Label): Html {
  return html`<h2 id="power">9. What this study could have seen</h2>
    <p>
      The smallest true difference from 50 % that a comparison with these standard errors finds with a chance
      of 80 %.
    </p>
    ${table(
      ["Pair", "Set", "Standard error, points", "Detectable difference, points"],
      headline.map(({ pair: [a, b], set, rate, detectable }) => [
        `${label(a)} vs ${label(b)}`,
        setLabel(set),
        percent(rate.standardError, 2),
        detectable === null ? "–" : `± ${percent(detectable)}`,
      ]),
      2,
    )}
    <p class="quiet">
      Before a study, koala eval power answers the same question from a model of raters: gaps between answers
      spread by ${defaultRaterModel.gapDeviation} over prompts, about 27 % ties,
      ${percent(defaultRaterModel.clickers, 0)} % random clickers.
    </p>`;
}

export function methodSection(results: Results, { study }: StudyData): Html {
  const { draws, seed, inputs } = results;
  const hashes = [
    ...Object.entries(study.hashes),
    ...Object.entries(inputs).map(([name, hash]) => [`${name}, as analysed`, hash]),
  ];
  return html`<h2 id="method">10. Method</h2>
    <p>
      Raters saw one prompt and two answers without names, sides drawn by lot. Each vote names the better
      answer or a tie. Golds and repeats enter no result. Of several votes of one rater on one item, the last
      counts. Votes of one prompt are not independent, so a prompt is the unit: its score is the mean of its
      votes, the result is the mean over prompts, and intervals are percentiles of ${draws} resamples of
      prompts (${fittedDraws(draws)} for ratings and length). Where all prompts agree, such an interval has no
      width and says nothing about chance. The sign test is exact and two-sided on each prompt’s majority;
      Holm’s adjustment runs over the pairs of a set. Seed ${seed}.
    </p>
    <h3>Commands</h3>
    ${study.commands.length === 0 ? html`<p class="quiet">None were recorded.</p>` : html`<pre>${study.commands.join("\n")}</pre>`}
    <h3>Systems</h3>
    ${table(
      ["System", "Id", "Details"],
      study.systems.map(({ id, label, details }) => [
        label,
        id,
        Object.entries(details)
          .map(([name, value]) => `${name}: ${value}`)
          .join("; "),
      ]),
      3,
    )}
    <h3>SHA-256</h3>
    ${table(
      ["What", "Hash"],
      hashes.map(([name, hash]) => [name!, html`<code>${hash!}</code>`]),
      2,
    )}`;
}
