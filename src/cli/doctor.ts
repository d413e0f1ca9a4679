/** `koala doctor`: what this machine can do, and why not more. */
import { existsSync, readFileSync } from "node:fs";
import { cpus, freemem, totalmem } from "node:os";
import type { Command } from "commander";
import { probeCudaDriver } from "../tensor/cuda_driver.ts";
import { findCudaLibraries } from "../tensor/cuda_libraries.ts";
import { Device } from "../tensor/device.ts";
import { libraryPath } from "../tensor/library.ts";
import { bytesText } from "../util/progress.ts";
import { isCompiled } from "../util/self_command.ts";
import { version } from "../util/version.ts";
import type { Finding } from "./doctor/finding.ts";
import { gpuFindings } from "./doctor/gpu.ts";

interface DoctorFlags {
  json?: boolean;
  measure: boolean;
  python?: string;
}

export function register(program: Command): void {
  program
    .command("doctor")
    .description("say what this machine can do, and why not more")
    .option("--json", "print one JSON object instead of lines")
    .option("--no-measure", "skip the second of measuring memory and arithmetic rates")
    .option(
      "--python <path>",
      "look for cuBLASLt, NCCL and cuDNN among the packages of this Python, or of this folder, too",
    )
    .action(run);
}

function run(flags: DoctorFlags): void {
  const libraries = findCudaLibraries({ libraries: process.env["KOALA_CUDA_LIBS"], python: flags.python });
  const gpus = gpuFindings(probeCudaDriver(), libraries, flags.measure);
  const findings = [...program(), ...processor(flags.measure), ...memory(), ...gpus];
  if (flags.json) console.log(JSON.stringify(findings, null, 2));
  else
    for (const { name, ok, text } of findings)
      console.log(`${ok ? "ok  " : "note"}  ${name.padEnd(16)} ${text}`);
}

function program(): Finding[] {
  const kind = isCompiled ? `one executable, ${process.execPath}` : "from the source tree";
  return [{ name: "koala", ok: true, text: `${version}, ${kind}, Bun ${Bun.version}` }];
}

function processor(measure: boolean): Finding[] {
  const device = Device.open(libraryPath("cpu"));
  const { isa, threads, name } = device.info;
  const best = isa.startsWith("avx512bf16");
  const findings = [
    {
      name: "processor",
      ok: true,
      text: `${name}, ${cpus().length} logical processors, ${threads} usable by this process`,
    },
    {
      name: "kernels",
      ok: best,
      text: best ? `${isa}: the fastest this build has` : `${isa}: ${whySlower(isa)}`,
    },
  ];
  if (measure) {
    const { bandwidth, float32, bfloat16 } = device.measure();
    const text = `${bandwidth.toFixed(1)} GB/s memory reads, ${float32.toFixed(0)} GFLOP/s float32, ${bfloat16.toFixed(0)} GFLOP/s bfloat16`;
    findings.push({ name: "measured", ok: true, text });
    findings.push({
      name: "decode limit",
      ok: true,
      text: `a model of N GB of weights decodes at most ${bandwidth.toFixed(0)}/N tokens/s for one stream`,
    });
  }
  device.close();
  return findings;
}

function whySlower(isa: string): string {
  if (process.arch !== "x64")
    return "the portable kernels; vector kernels exist for x86-64 only, so matrix products are several times slower.";
  if (isa.startsWith("avx512"))
    return "this processor has no bfloat16 instructions, so bfloat16 products run at float32 speed.";
  if (isa.startsWith("avx2"))
    return "this processor has no AVX-512, so batched products run at about a third of its successors' speed.";
  return "this processor (or KOALA_ISA) has no AVX2, so everything runs several times slower.";
}

function memory(): Finding[] {
  const free = process.availableMemory?.() ?? freemem();
  const pages = "/sys/kernel/mm/transparent_hugepage/enabled";
  const setting = existsSync(pages) ? /\[(\w+)\]/.exec(readFileSync(pages, "utf8"))?.[1] : undefined;
  const huge = setting === "always" || setting === "madvise";
  const text = huge
    ? `transparent huge pages are ${setting}: weights are read 15-25 % faster than on small pages`
    : `transparent huge pages are ${setting ?? "unknown"}: weights are read 15-25 % slower; echo madvise > ${pages} (as root) turns them on`;
  return [
    { name: "memory", ok: true, text: `${bytesText(free)} available of ${bytesText(totalmem())}` },
    { name: "huge pages", ok: huge, text },
  ];
}
