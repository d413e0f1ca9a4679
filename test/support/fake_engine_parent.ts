/** A server process with a busy fake engine. It prints the engine's process id, so that a test can kill the server. */
import { startEngine } from "../../src/engine/engine.ts";
import { greedy } from "./fake_runner.ts";

const child = new URL("fake_engine_child.ts", import.meta.url).pathname;
const engine = startEngine({ command: [process.execPath, child, process.argv[2] ?? "{}"] });
const { device } = await engine.ready();
const params = { ...greedy, maxTokens: 50_000 };
const request = { id: "a", prompt: [1], params, group: null, priority: 0, cacheSalt: "" };
for await (const event of engine.generate(request)) if (event.type === "prompt") console.log(device);
