/** Tokenizer speed against @huggingface/tokenizers, on one thread: `bun bench/tokenizer.bench.ts FOLDER [TEXT FILE]`.
 *  Prints tokens a second for short texts (warm and cold cache), one long text, decoding and streaming. */
import { join } from "node:path";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { createDetokenizer } from "../src/text/detokenizer.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";

const [folder, textFile] = process.argv.slice(2);
if (folder === undefined)
  throw new Error("Name a folder with a tokenizer.json: bun bench/tokenizer.bench.ts FOLDER [TEXT FILE]");

const json: object = await Bun.file(join(folder, "tokenizer.json")).json();
const library = new LibraryTokenizer(json, { clean_up_tokenization_spaces: false });
const source = textFile ?? join(import.meta.dir, "../README.md");
const long = (await Bun.file(source).text()).repeat(40).slice(0, 200_000);
const short = Array.from({ length: 100 }, (_, i) => long.slice(i * 2000, (i + 1) * 2000));

/** Tokens a CPU second, the best of `rounds`. */
function rate(rounds: number, run: () => number): number {
  let best = 0;
  for (let round = 0; round < rounds; round++) {
    const before = process.cpuUsage();
    const tokens = run();
    const { user, system } = process.cpuUsage(before);
    best = Math.max(best, tokens / ((user + system) / 1e6));
  }
  return Math.round(best);
}

const show = (name: string, ours: number, theirs: number): void =>
  console.log(
    `${name.padEnd(28)} ours ${ours.toLocaleString("en").padStart(12)} tok/s   library ${theirs.toLocaleString("en").padStart(12)} tok/s`,
  );

let tokenizer = await loadTokenizer(folder);
const coldRate = rate(1, () => short.reduce((sum, text) => sum + tokenizer.encode(text).length, 0));
const encodeShort = (): number => short.reduce((sum, text) => sum + library.encode(text).ids.length, 0);
show("encode 2 kB texts, cold", coldRate, rate(1, encodeShort));
show(
  "encode 2 kB texts, warm",
  rate(5, () => short.reduce((sum, text) => sum + tokenizer.encode(text).length, 0)),
  rate(2, encodeShort),
);
tokenizer = await loadTokenizer(folder);
show(
  "encode one 200 kB text, cold",
  rate(1, () => tokenizer.encode(long).length),
  rate(1, () => library.encode(long).ids.length),
);

const lists = short.map((text) => tokenizer.encode(text));
const count = lists.reduce((sum, ids) => sum + ids.length, 0);
const decodeAll =
  (decode: (ids: number[]) => string): (() => number) =>
  () => {
    for (const ids of lists) decode(ids);
    return count;
  };
show(
  "decode",
  rate(
    3,
    decodeAll((ids) => tokenizer.decode(ids)),
  ),
  rate(
    3,
    decodeAll((ids) => library.decode(ids)),
  ),
);
const streamed = rate(
  3,
  decodeAll((ids) => {
    const detokenizer = createDetokenizer(tokenizer);
    for (const id of ids) detokenizer.push(id);
    return detokenizer.end();
  }),
);
console.log(`stream ${streamed.toLocaleString("en")} tok/s, ${(1e6 / streamed).toFixed(2)} µs a token`);
