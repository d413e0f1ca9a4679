/** The one kind of failure of constrained decoding, and the limits behind it.
 *  Every limit counts something deterministic (bytes, states, steps), never time: the same request always gets the same answer. */

/** A grammar that is not supported, matches nothing, or costs too much. The message is one sentence with the way out. */
export class GrammarError extends Error {
  override name = "GrammarError";
}

export const limits = {
  /** Of the whole spec, written as JSON. */
  specBytes: 256 * 1024,
  /** Values nested in the spec. */
  specDepth: 128,
  /** Values in the spec. */
  specNodes: 50_000,
  patternLength: 8192,
  patternDepth: 200,
  /** Of one `{m,n}`, minLength, maxLength, minItems, maxItems. */
  repeatCount: 1_000_000,
  /** States of the compiled automaton, counted repeats not included (they need none). */
  states: 150_000,
  /** Of the product of regular expressions that hold together. */
  productStates: 10_000,
  rules: 20_000,
  /** Alternatives that one schema becomes when allOf and anyOf are combined. */
  mergedAlternatives: 128,
  /** Keywords looked at while compiling a schema, repeated visits counted. */
  schemaVisits: 200_000,
  /** Of a property beside additional ones. */
  nameLength: 1024,
  /** Schemas inside schemas while compiling, references not followed. */
  schemaDepth: 200,
  /** Alternatives kept open at one point of the output. */
  openAlternatives: 8192,
  /** Elementary steps for one mask or one accepted token; about 0.2 s. */
  steps: 4_000_000,
  /** Of the automaton's cached transitions, a grammar. */
  machineBytes: 16 * 1024 * 1024,
  /** Of cached masks, a grammar. */
  maskBytes: 16 * 1024 * 1024,
  /** Of all grammars kept for one vocabulary. */
  cacheBytes: 64 * 1024 * 1024,
};
