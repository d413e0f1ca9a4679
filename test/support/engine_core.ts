/** Drives an EngineCore by hand and sorts what it says by request; the page invariants are checked after each step. */
import { EngineCore } from "../../src/engine/core.ts";
import type { Grammar } from "../../src/engine/grammar.ts";
import type { EngineEvent, GenerateRequest, GrammarSpec, SamplingParams } from "../../src/engine/messages.ts";
import { FakeRunner, type FakeRunnerOptions, greedy } from "./fake_runner.ts";

export interface Transcript {
  events: EngineEvent[];
  tokens: number[];
  finish: Extract<EngineEvent, { type: "finish" }> | null;
  prompt: Extract<EngineEvent, { type: "prompt" }> | null;
}

export class CoreDriver {
  readonly core: EngineCore;
  readonly runner: FakeRunner;
  readonly transcripts = new Map<string, Transcript>();
  readonly embeddings = new Map<string, { embedding: number[] | null; error: string | null }>();

  constructor(
    options: FakeRunnerOptions = {},
    grammar?: { compile: (spec: GrammarSpec) => Grammar; endIds: number[] },
  ) {
    this.runner = new FakeRunner(options);
    const compileGrammar =
      grammar?.compile ??
      (() => {
        throw new Error("This test has no grammar.");
      });
    this.core = new EngineCore({ runner: this.runner, compileGrammar, endIds: grammar?.endIds ?? [] });
  }

  submit(
    id: string,
    prompt: number[],
    params: Partial<SamplingParams> = {},
    rest: Partial<GenerateRequest> = {},
  ): void {
    const request = {
      id,
      prompt,
      params: { ...greedy, ...params },
      group: null,
      priority: 0,
      cacheSalt: "",
      ...rest,
    };
    this.core.generate(request);
    this.#listen();
  }

  step(): Error | null {
    const error = this.core.step();
    this.#listen();
    this.core.cache.check(this.core.owners);
    return error;
  }

  abort(id: string): void {
    this.core.abort(id);
    this.#listen();
    this.core.cache.check(this.core.owners);
  }

  /** Steps until nothing is left; more than `most` steps would mean that somebody starves. */
  drain(most = 10_000): void {
    for (let steps = 0; !this.core.idle; steps++) {
      if (steps >= most) throw new Error(`still busy after ${most} steps`);
      this.step();
    }
  }

  of(id: string): Transcript {
    let transcript = this.transcripts.get(id);
    if (transcript === undefined) {
      transcript = { events: [], tokens: [], finish: null, prompt: null };
      this.transcripts.set(id, transcript);
    }
    return transcript;
  }

  #listen(): void {
    const output = this.core.takeOutput();
    for (const { id, embedding, error } of output.embeddings) this.embeddings.set(id, { embedding, error });
    for (const [id, event] of output.events) {
      const transcript = this.of(id);
      if (transcript.finish !== null) throw new Error(`${id} got an event after its finish`);
      transcript.events.push(event);
      if (event.type === "prompt") {
        if (transcript.events.length > 1) throw new Error(`${id} got its prompt event late`);
        transcript.prompt = event;
      } else if (event.type === "token") transcript.tokens.push(event.id);
      else transcript.finish = event;
    }
  }
}
