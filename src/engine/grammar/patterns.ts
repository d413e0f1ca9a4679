/** Pieces of grammar and how they combine. */
import type { ByteRange, Pattern } from "./program.ts";

export const nothing: Pattern = (_, next) => next;
/** Matches no text at all; alternatives that contain it are dropped. */
export const never: Pattern = (build, next) => build.byte([], next);

export function byteSet(...ranges: ByteRange[]): Pattern {
  return (build, next) => build.byte(ranges, next);
}

/** One of these ASCII characters. */
export function oneOf(characters: string): Pattern {
  const codes = [...characters].map((c) => c.charCodeAt(0)).sort((x, y) => x - y);
  return byteSet(...codes.map((code): ByteRange => [code, code]));
}

export function bytes(values: ArrayLike<number>): Pattern {
  return (build, next) => {
    for (let i = values.length - 1; i >= 0; i--) next = build.byte([[values[i]!, values[i]!]], next);
    return next;
  };
}

const encoder = new TextEncoder();

export function text(value: string): Pattern {
  return bytes(encoder.encode(value));
}

export function sequence(...parts: Pattern[]): Pattern {
  return (build, next) => {
    for (let i = parts.length - 1; i >= 0; i--) next = parts[i]!(build, next);
    return next;
  };
}

export function choice(...options: Pattern[]): Pattern {
  return (build, next) => {
    let entry = -1;
    for (let i = options.length - 1; i >= 0; i--) {
      const option = options[i]!(build, next);
      entry = entry < 0 ? option : build.split(option, entry);
    }
    return entry < 0 ? never(build, next) : entry;
  };
}

export function optional(part: Pattern): Pattern {
  return (build, next) => build.split(part(build, next), next);
}

/** min and max copies of `part`; max may be Infinity. `part` is compiled once whatever the counts. */
export function repeat(part: Pattern, min: number, max: number): Pattern {
  return (build, next) => {
    if (max < min) return never(build, next);
    if (max === 0) return next;
    if (max === 1) return min === 1 ? part(build, next) : build.split(part(build, next), next);
    if (max !== Infinity || min > 1) return build.call(build.repeatRule(part, min, max), next);
    const loop = build.loop(next);
    const body = part(build, loop);
    build.close(loop, body);
    return min === 1 ? body : loop;
  };
}

/** A rule of its own, compiled once for each `key`. */
export function rule(key: unknown, pattern: () => Pattern, shared = false): Pattern {
  return (build, next) => build.call(build.rule(key, pattern, shared), next);
}

/** One of these byte strings, with common beginnings shared. */
export function literals(values: Uint8Array[]): Pattern {
  const sorted = values.toSorted(compareBytes);
  return (build, next) => {
    const emit = (from: number, to: number, at: number): number => {
      // A run that all of them share needs no recursion: the depth is the number of forks, not of bytes.
      const first = sorted[from]!;
      const last = sorted[to - 1]!;
      let end = at;
      while (end < first.length && first[end] === last[end]) end++;
      let entry = end === first.length ? next : -1;
      let group = from;
      while (group < to && sorted[group]!.length === end) group++;
      while (group < to) {
        let stop = group + 1;
        while (stop < to && sorted[stop]![end] === sorted[group]![end]) stop++;
        const branch = emit(group, stop, end);
        entry = entry < 0 ? branch : build.split(branch, entry);
        group = stop;
      }
      for (let i = end - 1; i >= at; i--) entry = build.byte([[first[i]!, first[i]!]], entry);
      return entry;
    };
    return sorted.length === 0 ? never(build, next) : emit(0, sorted.length, 0);
  };
}

function compareBytes(x: Uint8Array, y: Uint8Array): number {
  const length = Math.min(x.length, y.length);
  for (let i = 0; i < length; i++) if (x[i] !== y[i]) return x[i]! - y[i]!;
  return x.length - y.length;
}
