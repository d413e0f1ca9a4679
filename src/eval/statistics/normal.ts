/** The normal distribution: its cumulative function and the inverse. */

/** P(X <= x), with a relative error below 1.2e-7 in both tails (Numerical Recipes, erfc by a Chebyshev fit). */
export function normalCdf(x: number): number {
  const half = 0.5 * erfc(Math.abs(x) / Math.SQRT2);
  return x > 0 ? 1 - half : half;
}

/** The x with P(X <= x) = p, by bisection. */
export function normalQuantile(p: number): number {
  let low = -9;
  let high = 9;
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (normalCdf(middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Of the fit, highest power first. */
const coefficients = [
  0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
  1.00002368, -1.26551223,
];

function erfc(z: number): number {
  const t = 1 / (1 + z / 2);
  return t * Math.exp(-z * z + coefficients.reduce((sum, coefficient) => sum * t + coefficient, 0));
}
