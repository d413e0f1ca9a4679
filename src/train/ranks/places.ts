/** Where the ranks of a run are: a device each, as they were first started, and which of them go on after failures.
 *  Always: where some cannot go on, as many do as divide a step's micro-batches evenly, if such a number is at least `ranksMin`,
 *  and else all that are left; a step takes the same rows in the same order whatever their number. */

/** One rank's place of the first start. Later starts count the ranks that are left from 0. */
export interface Place {
  /** The rank at the first start. */
  index: number;
  /** "cuda:3"; empty: what the recipe says. */
  device: string;
}

/** Why a place cannot be used, in a sentence's part; null where it can. */
export type ProbePlace = (place: Place) => Promise<string | null>;

export interface PlacesOptions {
  places: readonly Place[];
  /** As many ranks must go on. */
  ranksMin: number;
  /** Micro-batches of a step, which the ranks share; 0: any number shares them evenly. */
  microBatches: number;
}

/** Failures of one place without a new checkpoint after which the others go on without it. */
const failuresMax = 2;

export class Places {
  /** By index: failures since the last new checkpoint. */
  private readonly failures = new Map<number, number>();
  /** By index: why others go on without it. Places that failed stay out, those whose device did may come back. */
  private readonly failed = new Map<number, string>();
  private broken = new Map<number, string>();

  constructor(private readonly options: PlacesOptions) {}

  /** The ranks of the next start, in order; null where too few are left. */
  chosen(): Place[] | null {
    const left = this.left();
    const { places, ranksMin, microBatches } = this.options;
    if (left.length === places.length) return left;
    if (left.length < ranksMin) return null;
    return left.slice(0, worldOf(left.length, { ranksMin, microBatches }));
  }

  /** There was a new checkpoint: what failed before it is forgotten, but who was left out is not. */
  progress(): void {
    this.failures.clear();
  }

  /** A start failed, at this place. Looks at all devices. */
  async learn(culprit: Place | null, probe: ProbePlace): Promise<void> {
    const { places, ranksMin } = this.options;
    if (culprit !== null) {
      const count = (this.failures.get(culprit.index) ?? 0) + 1;
      this.failures.set(culprit.index, count);
      // Where nobody may be missing, the same ranks try again.
      if (count >= failuresMax && this.left().length > ranksMin)
        this.failed.set(culprit.index, `failed ${count} times without a new checkpoint`);
    }
    const reasons = await Promise.all(places.map(probe));
    this.broken = new Map(
      reasons.flatMap((reason, i) =>
        reason === null ? [] : [[(places[i] as Place).index, reason] as const],
      ),
    );
  }

  /** Who does not take part, and why; empty where all do. */
  absence(): string {
    const { places, microBatches, ranksMin } = this.options;
    const out = places.flatMap((place) => {
      const reason = this.reason(place);
      return reason === null ? [] : [`${nameOf(place)} is left out, because it ${reason}`];
    });
    if (out.length === 0) return "";
    const chosen = this.chosen();
    const left = this.left();
    if (chosen === null)
      return `${list(out).replace(/^r/, "R")}. ${ranksMin} ranks must take part, and ${left.length} can: --min-ranks lets fewer go on.`;
    const rest = left
      .slice(chosen.length)
      .map(
        (place) =>
          `${nameOf(place)} rests, because the ${microBatches} micro-batches of a step divide by ${chosen.length}`,
      );
    return `${chosen.length} of ${places.length} ranks train on: ${list([...out, ...rest])}.`;
  }

  private left(): Place[] {
    return this.options.places.filter((place) => this.reason(place) === null);
  }

  private reason({ index }: Place): string | null {
    const broken = this.broken.get(index);
    return broken === undefined ? (this.failed.get(index) ?? null) : `has no device that works (${broken})`;
  }
}

/** The largest number of ranks from `ranksMin` up to `most` that share the micro-batches evenly; `most` where none does. */
export function worldOf(
  most: number,
  { ranksMin, microBatches }: Pick<PlacesOptions, "ranksMin" | "microBatches">,
): number {
  for (let world = most; world >= ranksMin; world--) if (microBatches % world === 0) return world;
  return most;
}

const nameOf = ({ index, device }: Place): string => `rank ${index}${device === "" ? "" : ` on ${device}`}`;

const list = (parts: string[]): string => new Intl.ListFormat("en").format(parts);
