/** `koala serve --tensor-parallel 2` as users run it: the official client, ranks that are killed, and what is left afterwards. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { type RunningServer, startKoala } from "../support/koala_process.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";

const main = join(import.meta.dir, "..", "..", "src", "cli", "main.ts");
const folder = temporaryFolder("tensor-parallel");

interface Process {
  pid: number;
  parent: number;
  command: string;
}

/** Processes of this machine; one that ends while it is looked at is left out. */
function processes(): Process[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const command = readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " ");
        const stat = readFileSync(`/proc/${name}/stat`, "utf8");
        // The name in parentheses may hold anything; a zombie has ended.
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return state === "Z" ? [] : [{ pid: Number(name), parent: Number(parent), command }];
      } catch {
        return [];
      }
    });
}

/** The engine process of a server, and its other ranks. */
function familyOf({ process: server }: RunningServer): { engine: number; ranks: number[] } {
  const all = processes();
  const childrenOf = (parent: number, verb: string) =>
    all.filter((one) => one.parent === parent && one.command.includes(` ${verb} `)).map(({ pid }) => pid);
  const [engine = 0] = childrenOf(server.pid, "engine");
  return { engine, ranks: childrenOf(engine, "engine-rank") };
}

const isAlive = (pid: number): boolean => processes().some((one) => one.pid === pid);

async function eventually(what: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; !(await what()); i++) {
    if (i > 400) throw new Error("it did not come true within ten seconds");
    await Bun.sleep(25);
  }
}

/** A request that cannot end by itself. */
const long = {
  model: "tiny",
  prompt: [1, 2, 3],
  max_tokens: 250,
  temperature: 0,
  logit_bias: { "2": -100 },
};

describe("a model on two ranks behind the API", () => {
  let model: string;
  let two: RunningServer;
  const clientOf = (server: RunningServer) =>
    new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });

  beforeAll(async () => {
    model = await makeTinyModel(join(folder, "tiny"));
    two = await startKoala(["--model", model, "--tensor-parallel", "2"]);
  });
  afterAll(async () => {
    await two?.stop("SIGKILL");
  });

  test("the official client gets one rank's answers, logprobs and embeddings", async () => {
    const one = await startKoala(["--model", model]);
    const ask = async (server: RunningServer) => {
      const client = clientOf(server);
      const { choices } = await client.completions.create({
        model: "tiny",
        prompt: "One, two, three",
        max_tokens: 40,
        temperature: 0,
        logprobs: 2,
      });
      const chat = client.chat.completions.stream({
        model: "tiny",
        messages: [{ role: "user", content: "Hi" }],
        max_tokens: 20,
        temperature: 0,
      });
      const { data } = await client.embeddings.create({
        model: "tiny",
        input: "Hi",
        encoding_format: "float",
      });
      return {
        text: choices[0]?.text,
        logprobs: choices[0]?.logprobs?.token_logprobs as number[],
        chat: (await chat.finalChatCompletion()).choices[0]?.message.content,
        embedding: data[0]?.embedding as number[],
      };
    };
    const [wanted, got] = [await ask(one), await ask(two)];
    await one.stop();
    expect([got.text, got.chat]).toEqual([wanted.text, wanted.chat]);
    expect(got.logprobs.length).toBe(40);
    got.logprobs.forEach((value, i) => expect(value).toBeCloseTo(wanted.logprobs[i] as number, 3));
    got.embedding.forEach((value, i) => expect(value).toBeCloseTo(wanted.embedding[i] as number, 5));
  });

  test("a rank that is killed ends what runs with its name, and the service comes back", async () => {
    const before = familyOf(two);
    expect(before.ranks.length).toBe(1);
    const stream = await clientOf(two).completions.create({ ...long, stream: true });
    let pieces = 0;
    const failure = await (async () => {
      for await (const _ of stream) if (++pieces === 5) process.kill(before.ranks[0] as number, "SIGKILL");
    })().then(
      () => "it ended well",
      (error: Error) => error.message,
    );
    expect(failure).toContain("Rank 1 of the engine's 2 was ended by SIGKILL");
    await eventually(async () => (await fetch(`${two.url}/readyz`)).status === 200);
    const after = familyOf(two);
    expect(after.engine).not.toBe(before.engine);
    expect(after.ranks.length).toBe(1);
    const again = await clientOf(two).completions.create({ model: "tiny", prompt: [1, 2], max_tokens: 3 });
    expect(again.usage?.completion_tokens).toBe(3);
    expect(isAlive(before.engine)).toBeFalse();
  });

  test("a rank that is killed while nobody asks is missed at once", async () => {
    const before = familyOf(two);
    process.kill(before.ranks[0] as number, "SIGKILL");
    await eventually(() => two.stderr().split("Rank 1 of the engine's 2 was ended by SIGKILL").length === 3);
    await eventually(async () => (await fetch(`${two.url}/readyz`)).status === 200);
    await eventually(() => familyOf(two).ranks.length === 1);
  });

  test("ranks end with an engine that is killed, and with a server that is stopped", async () => {
    const before = familyOf(two);
    process.kill(before.engine, "SIGKILL");
    await eventually(() => !isAlive(before.ranks[0] as number));
    await eventually(() => ![0, before.engine].includes(familyOf(two).engine));
    await eventually(async () => (await fetch(`${two.url}/readyz`)).status === 200);
    const after = familyOf(two);
    const stream = await clientOf(two).completions.create({ ...long, stream: true });
    let stopped: Promise<number> | null = null;
    let reason: string | null = null;
    for await (const { choices } of stream) {
      stopped ??= two.stop("SIGTERM");
      reason = choices[0]?.finish_reason ?? reason;
    }
    // What ran when the signal came was finished.
    expect(reason).toBe("length");
    expect(await stopped).toBe(0);
    for (const pid of [after.engine, ...after.ranks]) await eventually(() => !isAlive(pid));
  });
});

test.each([
  [
    ["--tensor-parallel", "3"],
    "--tensor-parallel 3 does not divide the 4 query heads; this model can be shared out to 1, 2, or 4.",
  ],
  [["--tensor-parallel", "9"], "It must be a whole number from 1 to 8."],
])("koala generate %p says why not", async (flags, sentence) => {
  const model = await makeTinyModel(join(folder, flags.join("")));
  const child = Bun.spawn([process.execPath, main, "generate", "--model", model, "--prompt", "x", ...flags], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await child.exited).toBe(1);
  expect(await new Response(child.stderr).text()).toContain(sentence);
});
