/** The emulated GPU reaches its own memory only, and tests hand it arrays of the host through copies there. */
import { afterAll, describe, expect, test } from "bun:test";
import { ptr as addressOf, type Pointer } from "bun:ffi";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { loadNative, type Native } from "../../src/tensor/native.ts";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { mirrored, ptr } from "./mirrors.ts";

const F32 = dtypeCode.f32;

describe.skipIf(process.arch !== "x64")("arrays of the host on an emulated GPU (needs x86-64)", async () => {
  const plain: Native = loadNative(await buildEmulator({ quiet: true }));
  const native = mirrored(plain);
  const out = new BigUint64Array(1);
  if (native.koala_device_open(addressOf(out), 0, 1) !== 0)
    throw new Error(String(native.koala_last_error()));
  const dev = Number(out[0]) as Pointer;
  afterAll(() => void native.koala_device_close(dev));

  const x = Float32Array.of(3, -1, 4, 1.5, 0.25, 2, 7, -8);
  const numbers = () => ({ y: new Float32Array(8), weight: new Float32Array(8).fill(1) });

  test("are refused where a kernel would get them, as an argument and inside of a struct", () => {
    const { y, weight } = numbers();
    expect(plain.koala_rms_norm(dev, addressOf(y), addressOf(x), addressOf(weight), 1, 8, 0, F32)).toBe(-1);
    expect(String(plain.koala_last_error())).toMatch(
      /koala_rms_norm: emulator: .*argument 0 of the kernel points to memory of the host/,
    );
    const ids = addressOf(new Int32Array(1));
    const logprobs = () => plain.koala_logprobs(dev, addressOf(y), ids, ids, ids, addressOf(x), ids, 1, 8, 0);
    expect(logprobs()).toBe(-1);
    expect(String(plain.koala_last_error())).toMatch(/koala_logprobs: .*memory of the host/);
    expect([...y]).toEqual(Array(8).fill(0));
  });

  test("go there and come back, parts of one buffer in their places", () => {
    const { y, weight } = numbers();
    const shared = new Float32Array(20);
    shared.set(x, 3);
    const [from, to] = [shared.subarray(3, 11), shared.subarray(12)];
    expect(native.koala_axpby(dev, ptr(to), ptr(from), 8, 2, 0, F32)).toBe(0);
    expect([...shared]).toEqual([0, 0, 0, ...x, 0, ...x.map((v) => 2 * v)]);
    expect(native.koala_rms_norm(dev, ptr(y), ptr(shared, 12), ptr(weight), 1, 8, 0, F32)).toBe(0);
    const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / 8);
    y.forEach((v, i) => expect(Math.abs(v - (x[i] as number) / root)).toBeLessThan(1e-6));
  });

  test("an op that fails leaves its sentence", () => {
    const { y, weight } = numbers();
    expect(native.koala_rms_norm(dev, ptr(y), ptr(x), ptr(weight), -1, 8, 0, F32)).toBe(-1);
    expect(String(native.koala_last_error())).toMatch(/T is -1 and must not be negative/);
  });
});
