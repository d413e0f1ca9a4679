/** The hidden verb that the server starts as its engine process: `koala engine JSON`, spoken to over IPC. */
import type { Command } from "commander";
import { adapterTable, type RunnerOptions } from "../engine/load_runner.ts";
import { type LoadedModel, runEngineProcess } from "../engine/process.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { openRunner } from "./tensor_parallel.ts";

export function register(program: Command): void {
  program
    .command("engine", { hidden: true })
    .argument("<options>", "runner options as JSON")
    .action((json: string) => start(JSON.parse(json) as RunnerOptions));
}

function start(options: RunnerOptions): Promise<void> {
  return runEngineProcess(async (progress): Promise<LoadedModel> => {
    const tokenizer = await loadTokenizer(options.directory);
    const { runner, info, lost } = await openRunner(options, progress);
    const vocabulary = vocabularyOf(tokenizer, info.vocabularySize);
    return { runner, info, vocabulary, adapters: adapterTable(runner, options), lost };
  });
}

/** Bytes of every id that the model can sample; built when a grammar first asks, because most servers never do. */
function vocabularyOf(tokenizer: Tokenizer, size: number): LoadedModel["vocabulary"] {
  let bytes: Uint8Array[] | null = null;
  return {
    get bytes() {
      return (bytes ??= Array.from({ length: size }, (_, id) => tokenizer.tokenBytes(id)));
    },
    endIds: tokenizer.eosIds,
  };
}
