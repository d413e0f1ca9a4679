/** Constrained decoding: which tokens may come next so that the whole output matches a `GrammarSpec`.
 *  Always: an allowed token keeps a complete match within reach (byte by byte; a vocabulary that lacks single bytes may
 *  still get stuck), end ids are allowed exactly where the text is a complete match, and nothing here depends on time. */
import { GrammarError, limits } from "./grammar/errors.ts";
import type { Stacks } from "./grammar/frames.ts";
import { Machine, dead } from "./grammar/machine.ts";
import { type Program, ProgramBuilder } from "./grammar/program.ts";
import { checkSize, specPattern } from "./grammar/spec.ts";
import { TokenMasks, type VocabularyTries, buildTries, setEndIds } from "./grammar/token_masks.ts";
import { analyse } from "./grammar/analysis.ts";
import type { GrammarSpec } from "./messages.ts";

export { GrammarError };

export interface Vocabulary {
  /** The bytes that each token adds to the text; empty for special tokens, which are never allowed. */
  bytes: Uint8Array[];
  endIds: number[];
}

export interface Grammar {
  start(): GrammarState;
}

/** One sequence's place in the output. `mask` and `accept` throw a GrammarError where a step costs too much. */
export interface GrammarState {
  /** Allowed token ids, ceil(V / 32) words; a new array, the caller's own. */
  mask(): Uint32Array;
  /** false: the token is not allowed here and nothing changed. */
  accept(id: number): boolean;
  /** The text is complete and only an end id can follow (or did). */
  readonly done: boolean;
  clone(): GrammarState;
}

/** Throws a GrammarError where `compileGrammar` would; needs no vocabulary. */
export function validateGrammar(spec: GrammarSpec): void {
  analyse(compileProgram(spec));
}

/** The same spec and vocabulary (by identity) give the same grammar as long as the cache holds it. */
export function compileGrammar(spec: GrammarSpec, vocabulary: Vocabulary): Grammar {
  const cache = cacheOf(vocabulary);
  checkSize(spec);
  const key = JSON.stringify(spec);
  const grammar =
    cache.grammars.get(key) ?? new CompiledGrammar(compileProgram(spec), vocabulary, cache.tries);
  cache.grammars.delete(key);
  cache.grammars.set(key, grammar);
  evict(cache.grammars);
  return grammar;
}

interface Cache {
  tries: VocabularyTries;
  /** By spec, least recently used first. */
  grammars: Map<string, CompiledGrammar>;
}

const caches = new WeakMap<Vocabulary, Cache>();

function cacheOf(vocabulary: Vocabulary): Cache {
  let cache = caches.get(vocabulary);
  if (cache === undefined) {
    cache = { tries: buildTries(vocabulary.bytes), grammars: new Map() };
    caches.set(vocabulary, cache);
  }
  return cache;
}

/** Drops the oldest while all take too much; the newest stays. */
function evict(grammars: Map<string, CompiledGrammar>): void {
  let stored = 0;
  for (const [key, grammar] of grammars) stored += key.length + grammar.bytes;
  for (const [key, grammar] of grammars) {
    if (stored <= limits.cacheBytes || grammars.size === 1) return;
    grammars.delete(key);
    stored -= key.length + grammar.bytes;
  }
}

function compileProgram(spec: GrammarSpec): Program {
  checkSize(spec);
  return new ProgramBuilder().build(specPattern(spec));
}

class CompiledGrammar implements Grammar {
  readonly machine: Machine;
  readonly masks: TokenMasks;
  private readonly programBytes: number;

  constructor(
    program: Program,
    readonly vocabulary: Vocabulary,
    tries: VocabularyTries,
  ) {
    this.machine = new Machine(program, [tries.short.horizon, tries.long.horizon]);
    this.masks = new TokenMasks(this.machine, tries, vocabulary.endIds);
    this.programBytes = program.op.length * 10 + program.rules.length * 80 + program.sets.byteLength;
  }

  get bytes(): number {
    return this.programBytes + this.machine.bytes + this.masks.bytes;
  }

  start(): GrammarState {
    this.machine.begin();
    return new State(this, this.machine.stacks(this.machine.start()), false);
  }
}

class State implements GrammarState {
  private epoch = -1;
  private position = dead;

  constructor(
    private readonly grammar: CompiledGrammar,
    private stacks: Stacks,
    private ended: boolean,
  ) {}

  mask(): Uint32Array {
    const position = this.locate();
    if (!this.ended) return this.grammar.masks.at(position);
    const { bytes, endIds } = this.grammar.vocabulary;
    const mask = new Uint32Array((bytes.length + 31) >>> 5);
    setEndIds(mask, endIds);
    return mask;
  }

  accept(id: number): boolean {
    const { machine, vocabulary } = this.grammar;
    let position = this.locate();
    if (vocabulary.endIds.includes(id)) {
      this.ended ||= machine.complete(position);
      return this.ended;
    }
    const bytes = vocabulary.bytes[id];
    if (this.ended || bytes === undefined || bytes.length === 0) return false;
    for (const byte of bytes) {
      position = machine.step(position, byte);
      if (position === dead) return false;
    }
    this.position = position;
    this.stacks = machine.stacks(position);
    return true;
  }

  get done(): boolean {
    const { machine } = this.grammar;
    const position = this.locate();
    return this.ended || (machine.complete(position) && !machine.open(position));
  }

  clone(): GrammarState {
    return new State(this.grammar, this.stacks, this.ended);
  }

  /** The machine may have dropped its positions since the last call. */
  private locate(): number {
    const { machine } = this.grammar;
    machine.begin();
    if (this.epoch !== machine.epoch) {
      this.position = machine.adopt(this.stacks);
      this.stacks = machine.stacks(this.position);
      this.epoch = machine.epoch;
    }
    return this.position;
  }
}
