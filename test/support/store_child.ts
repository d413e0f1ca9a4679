/** A process of its own that uses stores.
 *  `open NAME`: opens each address that comes as a line on stdin, makes the key NAME there, and prints a line.
 *  `write NAME URL`: makes keys without end, and prints the id of each once it is committed. */
import { createKey } from "../../src/store/keys.ts";
import { openStore } from "../../src/store/store.ts";

const [verb, name, url] = process.argv.slice(2) as [string, string, string];
if (verb === "write") {
  const store = await openStore(url);
  for (let i = 0; ; i++) process.stdout.write(`${(await createKey(store, `${name}${i}`)).id}\n`);
}
process.stdout.write("ready\n");
for await (const line of console) {
  if (line === "") break; // how the end of stdin comes
  const store = await openStore(line);
  await createKey(store, name);
  await store.close();
  process.stdout.write("done\n");
}
