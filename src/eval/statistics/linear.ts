/** Small dense systems of linear equations. */
import { assert } from "../../util/errors.ts";

/** x with matrix · x = right, by Gaussian elimination with row pivots; the inputs stay as they are. */
export function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const size = right.length;
  const rows = matrix.map((row, index) => [...row, right[index]!]);
  for (let column = 0; column < size; column++) {
    let pivot = column;
    for (let row = column + 1; row < size; row++) {
      if (Math.abs(rows[row]![column]!) > Math.abs(rows[pivot]![column]!)) pivot = row;
    }
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    const top = rows[column]!;
    assert(top[column] !== 0, "the matrix is singular");
    for (let row = column + 1; row < size; row++) {
      const factor = rows[row]![column]! / top[column]!;
      for (let k = column; k <= size; k++) rows[row]![k]! -= factor * top[k]!;
    }
  }
  const x = Array.from({ length: size }, () => 0);
  for (let row = size - 1; row >= 0; row--) {
    let rest = rows[row]![size]!;
    for (let k = row + 1; k < size; k++) rest -= rows[row]![k]! * x[k]!;
    x[row] = rest / rows[row]![row]!;
  }
  return x;
}
