/** A server over a fake engine in a process of its own, for tests of signals. Prints its port; argument: grace in ms. */

import { listen } from "../../src/server/listen.ts";
import { testServer } from "./test_server.ts";

const { app, context } = testServer({ engine: { stepMs: 20, script: () => "a".repeat(1000) } });
const running = listen(app, {
  context,
  host: "127.0.0.1",
  port: 0,
  signals: true,
  graceMs: Number(process.argv[2]),
});
console.log(running.port);
await running.closed;
console.log("closed");
