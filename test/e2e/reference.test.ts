import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readGolden } from "../support/golden.ts";
import { startKoala } from "../support/koala_process.ts";
import { families, sharedDirectory, withoutShared } from "../support/paths.ts";

const reference = join(sharedDirectory, "reference");
const present = existsSync(join(reference, "llama-mha", "tokenizer.json"));

interface Completion {
  choices: {
    index: number;
    token_ids: number[];
    logprobs: { token_logprobs: (number | null)[]; top_logprobs: (Record<string, number> | null)[] };
  }[];
}

describe.skipIf(!present)(
  `what lm-evaluation-harness sends (${present ? "to the reference families" : withoutShared})`,
  () => {
    test.each([...families])(
      "gives %s's log-likelihoods and greedy tokens as transformers computes them",
      async (family) => {
        const golden = await readGolden(family);
        const server = await startKoala([
          "--model",
          join(reference, family),
          "--threads",
          "1",
          "--dtype",
          "float32",
        ]);
        const complete = async (body: object): Promise<Completion> => {
          const answer = await fetch(`${server.url}/v1/completions`, {
            method: "POST",
            body: JSON.stringify({ model: family, temperature: 0, ...body }),
          });
          expect(answer.status).toBe(200);
          return (await answer.json()) as Completion;
        };
        try {
          const prompts = golden.ids("inputs.ids");
          const scored = await complete({
            prompt: prompts,
            max_tokens: 1,
            logprobs: 1,
            echo: true,
            seed: 1234,
          });
          scored.choices.forEach(({ index, logprobs }) => {
            // The harness drops the generated token and sums the continuation: here the last seven tokens of the prompt.
            const sum = logprobs.token_logprobs
              .slice(-8, -1)
              .reduce<number>((total, x) => total + (x as number), 0);
            expect(Math.abs(sum - (golden.json.loglikelihood[index] as number))).toBeLessThan(1e-4);
          });
          const generated = await complete({
            prompt: prompts,
            max_tokens: 32,
            ignore_eos: true,
            return_token_ids: true,
          });
          const wanted = golden.ids("greedy.ids").map((ids) => ids.slice(-32));
          expect(generated.choices.map((choice) => choice.token_ids)).toEqual(wanted);
        } finally {
          await server.stop();
        }
      },
    );
  },
);
