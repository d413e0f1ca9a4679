/** Compiles the library of the emulated GPU (64-bit x86 only) while a test file that imports this is loaded: no test's time
 *  is spent on a compiler. */
import { buildEmulator } from "../../ffi/build_gpu.ts";

if (process.arch === "x64") await buildEmulator({ quiet: true });
