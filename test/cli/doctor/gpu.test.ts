import { beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Finding } from "../../../src/cli/doctor/finding.ts";
import {
  deviceFinding,
  driverFinding,
  gpuFindings,
  libraryFinding,
  peerFinding,
} from "../../../src/cli/doctor/gpu.ts";
import { type CudaDriver, kernelDriverVersion, probeCudaDriver } from "../../../src/tensor/cuda_driver.ts";
import { findCudaLibraries, type LibrarySearch } from "../../../src/tensor/cuda_libraries.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { standInDriver, standInLibrary } from "./stand_ins.ts";

const folder = temporaryFolder("doctor");
const program = join(import.meta.dir, "..", "..", "..", "src", "cli", "main.ts");

/** One sentence, or one after which the way out stands in a second. */
const sentence = /^[^\n]+\.$/;

async function doctor(args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, program, "doctor", "--no-measure", ...args], {
    env: { ...process.env, KOALA_CUDA_LIBS: "", ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, out, errors] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, out, errors };
}

let made = 0;
function probe(definitions: Record<string, number> = {}): CudaDriver {
  const place = join(folder, `driver${made++}`);
  return probeCudaDriver(standInDriver(place, definitions));
}

describe("the driver", () => {
  test("that is not there is one sentence with the way to one", () => {
    const driver = probeCudaDriver(join(folder, "nowhere", "libcuda.so.1"));
    expect(driver.state).toBe("absent");
    const finding = driverFinding(driver, null);
    expect(finding.ok).toBe(false);
    expect(finding.text).toMatch(sentence);
    expect(finding.text).toContain("install driver 580 or newer");
    // A kernel module without the library is a container's fault.
    expect(driverFinding(driver, "580.95.05").text).toContain("container toolkit");
  });

  test("with one device tells its name, memory, capability and that it has no peers", () => {
    const driver = probe();
    expect(driver).toEqual({
      state: "working",
      cuda: 13000,
      devices: [
        {
          ordinal: 0,
          name: "Stand-in GPU",
          memoryBytes: 139 * 2 ** 30,
          capability: 90,
          multiprocessors: 132,
          peers: [],
        },
      ],
    });
    const finding = driverFinding(driver, "580.95.05");
    expect([finding.ok, finding.text]).toEqual([true, "580.95.05, runs CUDA 13.0, 1 device"]);
  });

  test("with three devices tells which do not read each other's memory", () => {
    const driver = probe({ DEVICES: 3 });
    if (driver.state !== "working") throw new Error(JSON.stringify(driver));
    expect(driver.devices.map(({ peers }) => peers)).toEqual([[1], [0], []]);
    const finding = peerFinding(driver.devices);
    expect(finding.ok).toBe(false);
    expect(finding.text).toStartWith("not between devices 0-2, 1-2:");
    expect(peerFinding(driver.devices.slice(0, 2))).toMatchObject({ ok: true, values: { without: [] } });
  });

  test("that is out of memory at its start, or later, says which call failed and what holds the memory", () => {
    for (const [definitions, symbol] of [
      [{ INIT_ERROR: 2 }, "cuInit"],
      [{ MEMORY_ERROR: 2 }, "cuDeviceTotalMem"],
    ] as const) {
      const driver = probe(definitions);
      expect(driver).toEqual({
        state: "failing",
        cuda: 13000,
        code: 2,
        reason: `${symbol} failed with error 2 (out of memory)`,
      });
      const { ok, text } = driverFinding(driver, null);
      expect(ok).toBe(false);
      expect(text).toMatch(sentence);
      expect(text).toContain("other programs hold the device's memory");
    }
  });

  test("that is older than CUDA 13 names the driver and forward compatibility, whether it starts or not", () => {
    const others: Record<string, number>[] = [{}, { INIT_ERROR: 3 }];
    for (const other of others) {
      const { ok, text } = driverFinding(probe({ CUDA: 12040, ...other }), "550.54.15");
      expect(ok).toBe(false);
      expect(text).toStartWith("The NVIDIA driver 550.54.15 runs CUDA 12.4 and this build needs 13.0");
      expect(text).toContain("driver 580 or newer");
      expect(text).toContain("cuda-compat-13-0");
    }
  });

  test("that shows no device, or fails in a way that it cannot name, still gets one sentence", () => {
    for (const driver of [probe({ INIT_ERROR: 100 }), probe({ DEVICES: 0 })])
      expect(driverFinding(driver, null).text).toContain("CUDA_VISIBLE_DEVICES");
    const { text } = driverFinding(probe({ INIT_ERROR: 999 }), null);
    expect(text).toMatch(sentence);
    expect(text).toContain("cuInit failed with error 999 (unknown error)");
  });

  test("has the version that both kinds of kernel module write", () => {
    const lines = {
      "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024": "550.54.15",
      "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build": "580.95.05",
      "something else": null,
    };
    const path = join(folder, "version");
    for (const [line, version] of Object.entries(lines)) {
      writeFileSync(path, `${line}\nGCC version:  gcc version 12.2.0\n`);
      expect(kernelDriverVersion(path)).toBe(version);
    }
    expect(kernelDriverVersion(join(folder, "nowhere"))).toBeNull();
  });

  test("has devices that are too old for the kernels", () => {
    const device = { ordinal: 1, name: "Old", memoryBytes: 2 ** 34, multiprocessors: 80, peers: [] };
    expect(deviceFinding({ ...device, capability: 80 }).ok).toBe(true);
    const { ok, text } = deviceFinding({ ...device, capability: 70 });
    expect(ok).toBe(false);
    expect(text).toContain("sm_70");
    expect(text).toContain("--device cpu");
  });
});

const installed = findCudaLibraries({ toolkits: join(folder, "nowhere") }).some(
  ({ found }) => found !== null,
);

const realDriver = probeCudaDriver().state !== "absent";

test.skipIf(realDriver)(
  "a device that cannot be measured, for whatever reason, is a sentence (skipped where there is a real driver)",
  () => {
    const findings = new Map(gpuFindings(probe(), [], true).map((finding) => [finding.name, finding]));
    // The device is a stand-in's, so Koala's library does not find it, where it is built at all.
    const last = findings.get("gpu 0 rates") ?? findings.get("koala cuda");
    expect(last?.ok).toBe(false);
    expect(last?.text).toMatch(/^(it could not be measured: .+|The native library .+ is not built\. .+)$/);
    const old = gpuFindings(probe({ CUDA: 12040 }), [], true);
    expect(old.some(({ name }) => name === "gpu 0 rates")).toBe(false);
  },
);

describe.skipIf(installed)("NVIDIA's libraries (skipped where the loader finds real ones)", () => {
  const named = join(folder, "named");
  const toolkits = join(folder, "toolkits");
  const python = join(folder, "environment");
  const packages = join(python, "lib", "python3.12", "site-packages", "nvidia");
  const search = (options = {}) =>
    Object.fromEntries(findCudaLibraries({ toolkits, ...options }).map((one) => [one.name, one.found]));

  beforeAll(() => {
    standInLibrary(join(named, "libcublasLt.so.12"), 120304);
    standInLibrary(join(toolkits, "cuda-13.1", "lib64", "libcublasLt.so.13"), 130102);
    standInLibrary(join(toolkits, "cuda-9.2", "lib64", "libcublasLt.so.13"), 130000);
    standInLibrary(join(packages, "cu13", "lib", "libcublasLt.so.13"), 130200);
    standInLibrary(join(packages, "nccl", "lib", "libnccl.so.2"), 23007);
    standInLibrary(join(packages, "cudnn", "lib", "libcudnn.so.9"), 91501);
  });

  test("are taken from KOALA_CUDA_LIBS, then the newest toolkit, then Python, with their versions", () => {
    expect(search({ libraries: `${join(folder, "nowhere")}:${named}`, python })).toEqual({
      cuBLASLt: { path: join(named, "libcublasLt.so.12"), version: "12.3.4", place: "KOALA_CUDA_LIBS" },
      NCCL: {
        path: join(packages, "nccl", "lib", "libnccl.so.2"),
        version: "2.30.7",
        place: "Python packages",
      },
      cuDNN: {
        path: join(packages, "cudnn", "lib", "libcudnn.so.9"),
        version: "9.15.1",
        place: "Python packages",
      },
    });
    const place = join(toolkits, "cuda-13.1", "lib64");
    expect(search({ python })["cuBLASLt"]).toEqual({
      path: join(place, "libcublasLt.so.13"),
      version: "13.1.2",
      place,
    });
    // The folder called cuda is the one that the machine's owner chose.
    symlinkSync("cuda-9.2", join(toolkits, "cuda"));
    expect(search()["cuBLASLt"]?.version).toBe("13.0.0");
  });

  test("in a Python's packages come with the variable that serve and train need", () => {
    const found = findCudaLibraries({
      toolkits: folder,
      python: join(python, "lib", "python3.12", "site-packages"),
    });
    const { ok, text } = libraryFinding(found.find(({ name }) => name === "NCCL") as LibrarySearch);
    expect(ok).toBe(true);
    expect(text).toContain("2.30.7");
    expect(text).toEndWith(`KOALA_CUDA_LIBS holds ${join(packages, "nccl", "lib")}`);
  });

  test("that cannot be loaded, or do not answer, are named with the reason, and the search goes on", () => {
    const broken = join(folder, "broken");
    mkdirSync(broken);
    writeFileSync(join(broken, "libcublasLt.so.13"), "not a library");
    standInLibrary(join(broken, "libnccl.so.2"), 0);
    const [cublas, nccl] = findCudaLibraries({ libraries: `${broken}:${named}`, toolkits: folder });
    expect(cublas?.found?.version).toBe("12.3.4");
    expect(cublas?.faults).toEqual([expect.stringContaining(join(broken, "libcublasLt.so.13"))]);
    expect(nccl).toMatchObject({
      found: null,
      faults: [expect.stringContaining("ncclGetVersion failed with 3")],
    });
    expect(libraryFinding(nccl as LibrarySearch).text).toMatch(sentence);
  });

  test("that are nowhere are one sentence each, with what is lost and how to get them", () => {
    for (const name of ["cuBLASLt", "NCCL", "cuDNN"] as const) {
      const { ok, text } = libraryFinding({ name, found: null, faults: [] });
      expect(ok).toBe(name === "cuDNN");
      expect(text).toMatch(/^not found; [^.]+ \(pip install nvidia-[a-z0-9-]+ .+\)\.$/);
    }
  });

  test("are asked for in a Python that does not exist with one sentence and exit code 1", async () => {
    const { code, errors } = await doctor(["--python", join(folder, "no-python")]);
    expect(code).toBe(1);
    expect(errors).toMatch(/^koala: --python .+ is neither a folder nor a Python that runs\..+\n$/);
  });
});

describe("koala doctor", () => {
  test("loads no driver that lies in the working folder", async () => {
    const planted = dirname(standInDriver(join(folder, "planted"), { DEVICES: 8 }));
    const child = Bun.spawnSync([process.execPath, program, "doctor", "--no-measure", "--json"], {
      cwd: planted,
    });
    const found = JSON.parse(child.stdout.toString()) as Finding[];
    expect(found.some(({ name }) => name === "gpu 7")).toBe(false);
  });

  const findings = async (args: string[], env: Record<string, string>) => {
    const { code, out, errors } = await doctor(["--json", ...args], env);
    expect([code, errors]).toEqual([0, ""]);
    return new Map((JSON.parse(out) as Finding[]).map((finding) => [finding.name, finding]));
  };

  test("finds the driver through the loader and the libraries through KOALA_CUDA_LIBS", async () => {
    const driver = dirname(standInDriver(join(folder, "loader"), { DEVICES: 2 }));
    const libraries = join(folder, "libraries");
    standInLibrary(join(libraries, "libnccl.so.2"), 22809);
    const found = await findings([], { LD_LIBRARY_PATH: driver, KOALA_CUDA_LIBS: libraries });
    expect(found.get("gpu driver")).toMatchObject({ ok: true, values: { state: "working", cuda: 13000 } });
    expect(found.get("gpu 1")).toMatchObject({ ok: true, values: { capability: 90, peers: [0] } });
    expect(found.get("peer access")?.ok).toBe(true);
    expect(found.get("NCCL")?.values).toMatchObject({ version: "2.28.9", place: "KOALA_CUDA_LIBS" });
  });

  test("ends with 0 where the driver is too old, and its table has a line for everything that is missing", async () => {
    const driver = dirname(standInDriver(join(folder, "old"), { CUDA: 12020 }));
    const { code, out, errors } = await doctor([], { LD_LIBRARY_PATH: driver });
    expect([code, errors]).toEqual([0, ""]);
    expect(out).toMatch(
      /^note {2}gpu driver {7}The NVIDIA driver .*runs CUDA 12\.2 and this build needs 13\.0/m,
    );
    for (const name of ["cuBLASLt", "NCCL", "cuDNN", "koala cuda"])
      expect(out).toMatch(new RegExp(`^(ok  |note)  ${name} +\\S`, "m"));
  });
});
