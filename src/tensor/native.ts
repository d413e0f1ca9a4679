/** The native library's symbols as bun:ffi sees them: the mirror of ffi/include/koala.h, which explains each.
 *
 *  bun:ffi guards almost nothing, so only Device, Arena and Ops call these. Pointers are numbers: pass addresses, and
 *  `ptr(typedArray)` only outside loops. A test compares this table with the header and with the library. */
import { dlopen, type Library } from "bun:ffi";
import { UsageError } from "../util/errors.ts";

/** What koala_abi_version() must return. */
export const ABI_VERSION = 4;

const op = <const Args extends readonly ("ptr" | "i32" | "f32" | "f64" | "cstring")[]>(...args: Args) =>
  ({ args, returns: "i32" }) as const;

export const declarations = {
  koala_abi_version: op(),
  koala_last_error: { args: [], returns: "cstring" },

  koala_device_open: op("ptr", "i32", "i32"),
  koala_device_close: op("ptr"),
  koala_device_info: op("ptr", "ptr", "i32"),
  koala_device_measure: op("ptr", "ptr"),
  koala_device_rehearse: op("ptr", "i32"),
  koala_device_scratch: op("ptr", "ptr", "i32"),
  koala_device_record: op("ptr", "ptr"),

  koala_memory_alloc: op("ptr", "ptr", "f64"),
  koala_memory_free: op("ptr", "ptr", "f64"),
  koala_memory_copy: op("ptr", "ptr", "ptr", "f64"),
  koala_file_map: op("ptr", "ptr", "cstring"),
  koala_file_unmap: op("ptr", "f64"),

  koala_graph_begin: op("ptr"),
  koala_graph_end: op("ptr", "ptr"),
  koala_graph_launch: op("ptr", "ptr"),
  koala_graph_close: op("ptr", "ptr"),

  koala_matmul_pack_bytes: op("ptr", "ptr", "i32", "i32", "i32"),
  koala_matmul_pack: op("ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32"),
  koala_matmul: op("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32"),

  koala_embed: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"),
  koala_rms_norm: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "f32", "i32"),
  koala_add_rms_norm: op("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "f32", "i32"),
  koala_qk_norm: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f32", "i32"),
  koala_rope: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"),
  koala_cache_page_bytes: op("ptr", "ptr", "i32", "i32", "i32", "i32"),
  koala_cache_write: op("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32", "i32"),
  koala_attention: op(
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "f32",
    "i32",
    "i32",
  ),
  koala_silu_mul: op("ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_gather_rows: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_sum_rows: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),

  koala_contrast: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_sample: op(
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
  ),
  koala_logprobs: op("ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),

  koala_matmul_pack_transposed: op("ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"),
  koala_matmul_weight_gradient: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"),
  koala_bias_gradient: op("ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_embed_backward: op("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"),
  koala_rms_norm_backward: op("ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "f32", "i32", "i32"),
  koala_qk_norm_backward: op(
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
    "i32",
    "i32",
    "f32",
    "i32",
  ),
  koala_rope_backward: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"),
  koala_document_attention: op(
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "f32",
    "f32",
    "i32",
  ),
  koala_document_attention_backward: op(
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "f32",
    "f32",
    "i32",
  ),
  koala_silu_mul_backward: op("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_dropout: op("ptr", "ptr", "ptr", "f64", "i32", "i32", "f32", "i32"),
  koala_axpby: op("ptr", "ptr", "ptr", "f64", "f64", "f64", "i32"),
  koala_accumulate: op("ptr", "ptr", "ptr", "f64", "i32"),
  koala_fill_normal: op("ptr", "ptr", "f64", "f64", "f64", "f64"),
  koala_cast: op("ptr", "ptr", "ptr", "f64", "i32", "i32"),
  koala_cross_entropy: op("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_cross_entropy_backward: op("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
  koala_sum_squares: op("ptr", "ptr", "ptr", "f64", "i32"),
  koala_adamw: op("ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "f64", "ptr", "f64", "i32", "i32"),
  koala_master_split: op("ptr", "ptr", "ptr", "ptr", "f64"),
  koala_master_join: op("ptr", "ptr", "ptr", "ptr", "f64"),

  koala_comm_offer: op("ptr", "ptr", "i32"),
  koala_comm_open: op("ptr", "ptr", "cstring", "i32", "i32", "f64", "f64"),
  koala_comm_close: op("ptr"),
  koala_comm_abort: op("ptr"),
  koala_comm_wait: op("ptr", "f64"),
  koala_comm_statistics: op("ptr", "ptr"),
  koala_comm_barrier: op("ptr", "ptr", "cstring", "f64"),
  koala_comm_all_reduce: op("ptr", "ptr", "ptr", "f64", "i32", "cstring", "f64"),
  koala_comm_reduce_scatter: op("ptr", "ptr", "ptr", "ptr", "f64", "i32", "i32", "cstring", "f64"),
  koala_comm_all_gather: op("ptr", "ptr", "ptr", "ptr", "f64", "cstring", "f64"),
  koala_comm_broadcast: op("ptr", "ptr", "ptr", "f64", "i32", "cstring", "f64"),
} as const;

/** The functions of one loaded library. */
export type Native = Library<typeof declarations>["symbols"];

/** Loads the library at `path` (a file, or /proc/self/fd/N) and checks that it speaks this table's version. */
export function loadNative(path: string): Native {
  let symbols: Native;
  try {
    symbols = dlopen(path, declarations).symbols;
  } catch (error) {
    throw new UsageError(
      `Cannot load the native library ${path}: ${error instanceof Error ? error.message : error}. Build it with: bun ffi/build.ts`,
    );
  }
  const version = symbols.koala_abi_version();
  if (version !== ABI_VERSION) {
    throw new UsageError(
      `The native library ${path} has version ${version} and this program needs ${ABI_VERSION}. Build it again with: bun ffi/build.ts`,
    );
  }
  return symbols;
}
