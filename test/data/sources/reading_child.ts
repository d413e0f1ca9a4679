/** Reads one file of Alpaca records with a small limit and tells, as JSON, how it ended and how much memory it took. */
import { readDialogues } from "../../../src/data/sources/read.ts";

const before = process.memoryUsage.rss();
let most = before;
let last = "";
let questions = 0;
const onBytes = (): void => void (most = Math.max(most, process.memoryUsage.rss()));
for await (const read of readDialogues(process.argv[2]!, {
  source: "alpaca",
  recordBytesMax: 2 ** 20,
  onBytes,
})) {
  last = read.verdict === "dropped" ? `${read.drop.id} ${read.drop.reason}` : read.dialogue.id;
  if (read.verdict !== "dropped") questions++;
}
console.log(JSON.stringify({ last, questions, grown: most - before }));
