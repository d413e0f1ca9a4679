/** Every backward op against central differences of its forward op's float64 formula, on every instruction set. */
import { afterAll, describe, expect, test } from "bun:test";
import { gradientCases, type GradientCase } from "./gradient_cases.ts";
import { availableIsas, onGpu, Random, Target, type FloatType } from "./target.ts";

/** Relative L2 error by what sums run in and results are rounded to. */
const TOLERANCE: Record<FloatType, number> = { f64: 1e-8, f32: 1e-5, bf16: 3e-2, f16: 0 };
/** Inputs with more elements are differentiated at this many places, besides in two directions through all. */
const PLACES = 120;

const prober = Target.open({ threads: 1 });
const cases = gradientCases(prober);
afterAll(() => prober.close());

/** A direction in the space of one input: `places` and the components there. */
interface Direction {
  places: Uint32Array;
  components: Float64Array;
}

const differences = new Map<string, { directions: Direction[][]; slopes: Float64Array[] }>();

/** Derivatives of the loss along unit vectors and random directions of each input. */
function differentiate(each: GradientCase): { directions: Direction[][]; slopes: Float64Array[] } {
  const known = differences.get(each.name);
  if (known) return known;
  const directions = each.inputs.map((input, i) => choose(input.length, new Random(i + 1)));
  const slopes = directions.map((list, i) =>
    Float64Array.from(list, (direction) => slope(each, i, direction)),
  );
  differences.set(each.name, { directions, slopes });
  return { directions, slopes };
}

function choose(n: number, random: Random): Direction[] {
  const list: Direction[] = [];
  const all = Uint32Array.from({ length: n }, (_, at) => at);
  const single = (at: number) => ({ places: Uint32Array.of(at), components: Float64Array.of(1) });
  if (n <= PLACES) return Array.from(all, single);
  for (let i = 0; i < PLACES; i++) list.push(single(random.below(n)));
  for (let i = 0; i < 2; i++) list.push({ places: all, components: random.normals(n, 1 / Math.sqrt(n)) });
  return list;
}

/** Five points: the error is of fourth order. */
function slope(each: GradientCase, input: number, { places, components }: Direction): number {
  const h = 1e-3;
  const loss = (step: number) => {
    const inputs = each.inputs.map((values, i) => (i === input ? values.slice() : values));
    places.forEach((place, i) => (inputs[input]![place]! += step * components[i]!));
    return each.forward(inputs).reduce((sum, y, i) => sum + y * each.dy[i]!, 0);
  };
  return (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h);
}

function relativeError(actual: Float64Array, expected: Float64Array): number {
  let [difference, size] = [0, 0];
  expected.forEach((want, i) => {
    difference += (actual[i]! - want) ** 2;
    size += want ** 2;
  });
  return size === 0 ? Math.sqrt(difference) : Math.sqrt(difference / size);
}

for (const isa of availableIsas()) {
  describe(`gradients on ${isa}`, () => {
    const target = Target.open({ isa, threads: 2 });
    afterAll(() => target.close());
    for (const each of cases)
      // GPUs differentiate in float32 sums.
      for (const dtype of each.dtypes.filter((type) => !onGpu || type !== "f64"))
        test(`${each.name} of ${dtype}`, () => {
          const { directions, slopes } = differentiate(each);
          const gradients = each.run(target, dtype);
          slopes.forEach((expected, i) => {
            expect(gradients[i]!.length).toBe(each.inputs[i]!.length);
            expect(gradients[i]!.every(Number.isFinite)).toBe(true);
            const actual = Float64Array.from(directions[i]!, ({ places, components }) =>
              places.reduce((sum, place, n) => sum + gradients[i]![place]! * components[n]!, 0),
            );
            expect(relativeError(actual, expected)).toBeLessThan(TOLERANCE[dtype]);
          });
        });
  });
}
