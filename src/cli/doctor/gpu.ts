/** The GPU part of `koala doctor`: driver, devices, NVIDIA's libraries, Koala's own, and what the devices reach.
 *  Always: whatever is missing is one sentence that says how to get it; nothing here throws for it. */
import { dirname } from "node:path";
import {
  type CudaDevice,
  type CudaDriver,
  cudaNeeded,
  kernelDriverVersion,
} from "../../tensor/cuda_driver.ts";
import type { LibrarySearch, VendorName } from "../../tensor/cuda_libraries.ts";
import { Device } from "../../tensor/device.ts";
import { libraryPath } from "../../tensor/library.ts";
import { bytesText } from "../../util/progress.ts";
import type { Finding } from "./finding.ts";

/** The driver's major version that runs CUDA 13. */
const driverNeeded = 580;
/** Oldest capability that the kernels are compiled for. */
const capabilityNeeded = 80;

export function gpuFindings(driver: CudaDriver, libraries: LibrarySearch[], measure: boolean): Finding[] {
  const devices = driver.state === "working" ? driver.devices : [];
  const usable = driver.state === "working" && driver.cuda >= cudaNeeded && devices.length > 0;
  return [
    driverFinding(driver, kernelDriverVersion()),
    ...devices.map(deviceFinding),
    ...(devices.length > 1 ? [peerFinding(devices)] : []),
    ...libraries.map(libraryFinding),
    ...ownLibraryFindings(usable ? devices : [], measure),
  ];
}

/** `kernel`: the version of the kernel module, as 580.95.05. */
export function driverFinding(driver: CudaDriver, kernel: string | null): Finding {
  const values = { kernel, ...driver };
  const note = (text: string): Finding => ({ name: "gpu driver", ok: false, text, values });
  const named = kernel === null ? "The NVIDIA driver" : `The NVIDIA driver ${kernel}`;
  if (driver.state === "absent")
    return note(
      kernel === null
        ? `libcuda.so.1 was not found, so models run on the CPU; for an NVIDIA GPU install driver ${driverNeeded} or newer (https://www.nvidia.com/drivers).`
        : `${named} is loaded but its libcuda.so.1 was not found; in a container, start it with the NVIDIA container toolkit (docker run --gpus all).`,
    );
  if (driver.cuda !== null && driver.cuda < cudaNeeded) return note(`${named} ${tooOld(driver.cuda)}`);
  if (driver.state === "failing")
    return note(`${named} does not work: ${driver.reason}; ${wayOut(driver.code)}.`);
  if (driver.devices.length === 0) return note(`${named} shows no device; ${noDevice}.`);
  const count = driver.devices.length === 1 ? "1 device" : `${driver.devices.length} devices`;
  return {
    name: "gpu driver",
    ok: true,
    text: `${kernel === null ? "" : `${kernel}, `}runs CUDA ${cudaText(driver.cuda)}, ${count}`,
    values,
  };
}

const noDevice =
  "check nvidia-smi and CUDA_VISIBLE_DEVICES, and in a container that the device was handed in (docker run --gpus all)";

const tooOld = (cuda: number): string =>
  `runs CUDA ${cudaText(cuda)} and this build needs ${cudaText(cudaNeeded)}: install driver ${driverNeeded} or newer, or on a data-centre GPU the package cuda-compat-13-0 and put /usr/local/cuda-13.0/compat first in LD_LIBRARY_PATH.`;

/** For CUresult of cuda.h. */
function wayOut(code: number): string {
  switch (code) {
    case 2:
      return "other programs hold the device's memory: nvidia-smi shows which";
    case 34:
      return "a stub of the toolkit lies before the real driver: take the stubs folder out of LD_LIBRARY_PATH";
    case 100:
      return noDevice;
    case 803:
      return "libcuda.so.1 and the kernel module have different versions: restart the machine after the driver's update";
    case 804:
      return "forward compatibility works on data-centre GPUs only: take cuda-compat out of LD_LIBRARY_PATH and install a newer driver";
    default:
      return "nvidia-smi and the kernel's log (dmesg) tell more";
  }
}

export function deviceFinding(device: CudaDevice): Finding {
  const { ordinal, name, memoryBytes, capability, multiprocessors } = device;
  const ok = capability >= capabilityNeeded;
  const text = `${name}, ${bytesText(memoryBytes)}, sm_${capability}, ${multiprocessors} multiprocessors`;
  const old = `; the kernels need sm_${capabilityNeeded} (Ampere) or newer, so use --device cpu`;
  return { name: `gpu ${ordinal}`, ok, text: ok ? text : text + old, values: { ...device } };
}

export function peerFinding(devices: CudaDevice[]): Finding {
  const without = devices.flatMap(({ ordinal, peers }) =>
    devices
      .filter((other) => other.ordinal > ordinal && !peers.includes(other.ordinal))
      .map((other) => `${ordinal}-${other.ordinal}`),
  );
  const ok = without.length === 0;
  const text = ok
    ? "every device reads the others' memory directly"
    : `not between devices ${without.join(", ")}: their collectives go through the host's memory and are slower; nvidia-smi topo -m shows how they are connected`;
  return { name: "peer access", ok, text, values: { without } };
}

const purposes: Record<VendorName, { without: string; packageName: string }> = {
  cuBLASLt: { without: "Koala's own matrix kernels work instead, more slowly", packageName: "nvidia-cublas" },
  NCCL: {
    without: "GPUs of several processes cannot train together",
    packageName: "nvidia-nccl-cu13",
  },
  cuDNN: { without: "nothing is lost, for nothing uses it yet", packageName: "nvidia-cudnn-cu13" },
};

export function libraryFinding({ name, found, faults }: LibrarySearch): Finding {
  const { without, packageName } = purposes[name];
  if (found !== null) {
    const hint =
      found.place === "Python packages"
        ? `; serve and train find it when KOALA_CUDA_LIBS holds ${dirname(found.path)}`
        : "";
    return {
      name,
      ok: true,
      text: `${found.version}, ${found.path} (${found.place})${hint}`,
      values: { ...found },
    };
  }
  const missing = faults.length > 0 ? faults.join("; ") : "not found";
  const text = `${missing}; ${without} (pip install ${packageName} and --python, or a folder in KOALA_CUDA_LIBS, adds it).`;
  return { name, ok: name === "cuDNN", text, values: { found: null, faults } };
}

/** Whether this build has the CUDA library, and what it measures on each device. */
function ownLibraryFindings(devices: CudaDevice[], measure: boolean): Finding[] {
  const name = "koala cuda";
  let path: string;
  try {
    path = libraryPath("cuda");
  } catch (error) {
    return [{ name, ok: false, text: (error as Error).message, values: { path: null } }];
  }
  const own: Finding = { name, ok: true, text: "this build has the CUDA library", values: { path } };
  if (devices.length === 0 || !measure) return [own];
  return [own, ...devices.flatMap((device) => measured(path, device))];
}

function measured(path: string, { ordinal }: CudaDevice): Finding[] {
  const name = `gpu ${ordinal} rates`;
  try {
    const device = Device.open(path, { ordinal });
    const { bandwidth, float32, bfloat16 } = device.measure();
    device.close();
    const products = `bfloat16 products of many rows by ${device.info.gemm}`;
    const text = `${bandwidth.toFixed(0)} GB/s memory reads, ${(float32 / 1000).toFixed(1)} TFLOP/s float32, ${(bfloat16 / 1000).toFixed(0)} TFLOP/s bfloat16`;
    const limit = `a model of N GB of weights decodes at most ${bandwidth.toFixed(0)}/N tokens/s for one stream`;
    return [
      { name, ok: true, text, values: { ordinal, bandwidth, float32, bfloat16 } },
      { name: `gpu ${ordinal} limit`, ok: true, text: limit },
      {
        name: `gpu ${ordinal} products`,
        ok: true,
        text: products,
        values: { ordinal, gemm: device.info.gemm },
      },
    ];
  } catch (error) {
    return [
      { name, ok: false, text: `it could not be measured: ${(error as Error).message}`, values: { ordinal } },
    ];
  }
}

const cudaText = (version: number): string =>
  `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
