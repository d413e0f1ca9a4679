#!/bin/sh
# bench/gpu.sh: builds, checks and times everything on a machine with an NVIDIA GPU inside ten minutes, and ends in one table, the
# bars with what was reached, and a JSON file. Without a GPU it does the same at tiny sizes on the emulator or the CPU, which says
# nothing about speed.
#
#   bench/gpu.sh [--device cuda|emu|cpu] [--python python3] [--out FILE.json] [--minutes 10] [--prebuilt] [--sanitize | --profile]
#
# Every step runs under a time limit of its own, the most telling ones first; one that fails or is stopped is named in the table,
# and the others go on. Rows are written as they come to FILE.rows.jsonl: of a run that was killed, `bun bench/gpu/report.ts --rows
# FILE.rows.jsonl --out FILE.json` makes the table. Koala and its peer take turns (ours, theirs, ours). A peer that is not installed
# is printed as skipped. It ends with 1 where a check failed. Results that shall stay are copied by hand to bench/results/, with
# commit and date in their name.
#
# --sanitize: instead, the tests of ops under compute-sanitizer (memcheck, then racecheck). --profile: instead, the large ops and a
# training step under ncu, into FILE.ncu.txt. Both are CUDA's tools, take longer and are skipped where they are not there.
#
# What a machine needs: bun; this tree with node_modules and build/; an NVIDIA driver. With nvcc of CUDA 13 and a C++ compiler the
# libraries are built there; without nvcc, or with --prebuilt, build/libkoala_cuda.so and build/libkoala_cpu.so are taken as they
# came (made before by `bun ffi/build.ts --cuda`). cuBLASLt and NCCL are found in Python's packages (nvidia-cublas and
# nvidia-nccl-cu13, which torch brings) or in KOALA_CUDA_LIBS; the peers are torch and transformers, and jax, of --python. NCCL takes
# two ranks on one GPU from 2.30 on.
set -u
cd "$(dirname "$0")/.." || exit 1

usage() {
  echo "usage: bench/gpu.sh [--device cuda|emu|cpu] [--python python3] [--out FILE.json] [--minutes 10] [--prebuilt] [--sanitize | --profile]" >&2
  exit 2
}
device= python=python3 out= minutes= mode=bench
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=${2:?--device needs a value} ;;
    --python) python=${2:?--python needs a value} ;;
    --out) out=${2:?--out needs a value} ;;
    --minutes) minutes=${2:?--minutes needs a value} ;;
    --sanitize | --profile) mode=${1#--}; shift; continue ;;
    --prebuilt) export KOALA_PREBUILT=1; shift; continue ;;
    *) usage ;;
  esac
  shift 2
done
[ -n "$minutes" ] || { [ "$mode" = bench ] && minutes=10 || minutes=30; }

bun=${KOALA_BUN:-bun}
command -v "$bun" >/dev/null 2>&1 || { echo "gpu.sh: $bun was not found; put bun on the PATH or name it in KOALA_BUN." >&2; exit 1; }
if [ -z "$device" ]; then
  if nvidia-smi -L >/dev/null 2>&1; then device=cuda; else device=emu; fi
fi
case "$device" in cuda*) size=full ;; *) size=tiny ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=gpu-$(printf '%s' "$device" | tr ':' '-')-$(date -u +%Y-%m-%d)-$(git describe --always --abbrev=12 2>/dev/null || echo unknown)
[ "$mode" = bench ] || name=$name-$mode
mkdir -p build
out=${out:-build/$name.json}
rows=${out%.json}.rows.jsonl
: >"$rows"
deadline=$(($(date +%s) + minutes * 60))

step=start
say() { printf '%s\n' "gpu.sh: $*" >&2; }

# note STEP REASON [failed]: a step that has no rows, or not all.
note() {
  reason=$(printf '%s' "$2" | tr -d '"\\' | tr '\n\t' '  ' | cut -c 1-300)
  printf '{"step": "%s", "skipped": "%s"%s}\n' "$1" "$reason" "${3:+, \"failed\": true}" >>"$rows"
  say "$1: $reason"
}

# run STEP LIMIT ours|peer COMMAND...: at most LIMIT seconds, and no longer than all may take; rows go to the table.
run() {
  step=$1 limit=$2 whose=$3
  shift 3
  left=$((deadline - $(date +%s)))
  if [ "$left" -lt 5 ]; then note "$step" "the $minutes minutes were over" failed; return 1; fi
  [ "$limit" -gt "$left" ] && limit=$left
  say "$step, at most $limit s: $*"
  timeout -k 5 "$limit" "$@" >>"$rows" 2>"$work/log"
  code=$?
  [ "$code" -eq 0 ] && return 0
  failed=failed
  [ "$whose" = peer ] && failed=
  if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then why="stopped after $limit s"; else
    words=$(grep '^koala: \|[Ee]rror: ' "$work/log" | tail -n 1)
    why="ended with $code: ${words:-$(grep -v '^ *at \|^$\|^Bun v' "$work/log" | tail -n 3)}"
  fi
  note "$step" "$why" $failed
  return 1
}

# What peers need: "" where it is there, else the reason why they are skipped.
missing_peer() {
  command -v "$python" >/dev/null 2>&1 || { echo "$python was not found (--python names another)"; return; }
  "$python" -c 'import torch, transformers' >/dev/null 2>&1 || { echo "$python has no torch and transformers"; return; }
  [ "$size" = tiny ] || "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1 ||
    echo "torch of $python sees no GPU"
}

# The table of what there is, and the end.
finish() {
  "$bun" bench/gpu/report.ts --rows "$rows" --out "$out" --doctor "$work/doctor.json" --device "$device" --size "$size"
  code=$?
  say "the figures are in $out; to keep them: cp $out bench/results/$name.json"
  [ "$size" = full ] || say "tiny sizes on $device: these figures show that everything runs, not how fast."
  exit "$code"
}
trap 'note "$step" "the run was stopped by a signal" failed; finish' INT TERM

# Path of a program of CUDA's toolkit, or nothing.
cuda_tool() {
  command -v "$1" && return
  for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
    [ -n "$home" ] && [ -x "$home/bin/$1" ] && echo "$home/bin/$1" && return
  done
}

library=build/libkoala_cuda.so
case "$device" in
  cuda*)
    why=
    [ -z "${KOALA_PREBUILT:-}" ] || why="as asked"
    [ -n "$why" ] || [ -n "$(cuda_tool nvcc)" ] || why="nvcc was not found"
    if [ -z "$why" ]; then run build 120 ours "$bun" ffi/build.ts --cuda
    elif [ -f "$library" ]; then
      note build "$why: $library of $(date -u -r "$library" '+%Y-%m-%d %H:%M') UTC is taken as it came (sha256 $(sha256sum "$library" | cut -c 1-12))"
    else
      note build "there is no $library, and nothing builds it ($why): bring the library, made by bun ffi/build.ts --cuda, or install CUDA 13" failed
      finish
    fi ;;
  emu) run build 120 ours "$bun" ffi/build.ts --emu ;;
  *) run build 120 ours "$bun" ffi/build.ts ;;
esac

nvidia-smi >&2 2>/dev/null || say "nvidia-smi: no NVIDIA driver answers"
command -v "$python" >/dev/null 2>&1 && packages="--python $python" || packages=
# shellcheck disable=SC2086
timeout 60 "$bun" src/cli/main.ts doctor --json $packages >"$work/doctor.json" 2>"$work/log" || note doctor "$(tail -n 1 "$work/log")" failed
if [ -z "${KOALA_CUDA_LIBS:-}" ]; then
  # Found among the Python's packages or elsewhere: the CUDA library looks where this says.
  KOALA_CUDA_LIBS=$("$bun" -e '
    const findings = await Bun.file(process.argv[1]).json().catch(() => []);
    const paths = findings.filter(({ name }) => ["cuBLASLt", "NCCL", "cuDNN"].includes(name)).map(({ values }) => values?.path);
    const folders = paths.filter((path) => path?.includes("/")).map((path) => path.slice(0, path.lastIndexOf("/")));
    console.log([...new Set(folders)].join(":"));' "$work/doctor.json")
  export KOALA_CUDA_LIBS
fi

no_peer=
if [ "$mode" = bench ]; then
  no_peer=$(missing_peer)
  [ -z "$no_peer" ] || note peers "$no_peer"
fi
peer() {
  step=$1 limit=$2
  shift 2
  [ -z "$no_peer" ] && run "$step" "$limit" peer "$python" bench/gpu/peers.py "$@"
}
ours() {
  step=$1 limit=$2 bench=$3
  shift 3
  run "$step" "$limit" ours "$bun" "bench/gpu/$bench.ts" --device "$device" "$@"
}

jax() {
  limit=$1
  shift
  if "$python" -c 'import jax' >/dev/null 2>&1; then run "training (jax)" "$limit" peer "$python" bench/gpu/jax_peer.py "$@"
  else note "training (jax)" "$python has no jax"; fi
}
# What a PyTorch model of real width answers, how it trains, and Koala beside it.
parity() {
  peer "reference (transformers)" "$1" reference "$2" "$3" --layers "$4" --context "$5" --out "$work/reference" || return
  ours "parity" 45 parity --reference "$work/reference"
  ours "parity of training" 45 training_parity --reference "$work/reference"
  rm -rf "$work/reference"
}

full() {
  seven="--shape llama-7b --layers 8 --rows 4 --tokens 2048"
  ours ceilings 15 ceilings
  ours ops 45 ops --shape llama-7b
  ours tests 90 tests --seconds 85
  ours "inference 7b" 60 inference --shape llama-7b --batch 1,8,32,128
  peer "inference (transformers)" 100 inference --shape llama-7b --batch 1,32 --compile
  ours "inference 7b again" 40 inference --shape llama-7b --batch 1,32
  # shellcheck disable=SC2086
  {
    ours training 40 training $seven
    peer "training (transformers)" 80 training $seven --compile
    ours "training again" 40 training $seven
  }
  parity 60 --shape llama-7b 4 64
  ours "inference 8b" 50 inference --shape llama-3-8b --batch 256 --prefill 0
  ours "training 13b" 70 training --shape llama-13b --layers 40 --rows 1 --tokens 2048 --steps 1 --recompute block
  ours ranks 60 ranks --ranks 8 --kill
  ours "inference 13b" 40 inference --shape llama-13b --batch 32 --prefill 0
  if [ -z "${KOALA_GEMM:-}" ]; then
    export KOALA_GEMM=own
    ours "ops, own products" 30 ops --shape llama-7b --tokens 32,2048
    unset KOALA_GEMM
  fi
  ours "collectives nccl" 40 collectives --world 2 --through nccl
  ours "inference 7b, fp8 cache" 40 inference --shape llama-7b --batch 32,128 --prefill 0 --cache fp8
  ours "inference 7b, int8" 40 inference --shape llama-7b --batch 1,32 --prefill 0 --weights int8
  ours "inference 7b, int4" 40 inference --shape llama-7b --batch 1,32 --prefill 0 --weights int4
  ours "inference 7b without graphs" 30 inference --shape llama-7b --batch 1 --prefill 0 --no-graphs
  # shellcheck disable=SC2086
  jax 90 $seven
  ours collectives 30 collectives --world 8 --through memory
  ours "collectives peer" 30 collectives --world 8 --through peer
}

tiny() {
  small="--shape tiny --layers 2 --rows 2 --tokens 16"
  ours ceilings 15 ceilings
  ours ops 30 ops --shape tiny --tokens 1,9 --context 40 --repeat 1
  ours tests 30 tests --files ffi/contrast,ffi/pack --seconds 25
  ours inference 30 inference --shape tiny --batch 1,2 --context 24 --prefill 24 --repeat 3
  peer "inference (transformers)" 60 inference --shape tiny --batch 1,2 --context 24 --prefill 24
  # shellcheck disable=SC2086
  {
    ours training 30 training $small --steps 3
    peer "training (transformers)" 60 training $small
    jax 60 $small
  }
  parity 60 --shape tiny 2 32
  for variant in "--weights int8" "--weights int4" "--cache fp8" --no-graphs; do
    # shellcheck disable=SC2086
    ours "inference $variant" 30 inference --shape tiny --batch 2 --context 24 --prefill 0 --repeat 3 $variant
  done
  case "$device" in
    cpu) ours ranks 60 ranks --ranks 2 --steps 3 --kill ;;
    *) ours ranks 60 ranks --ranks 2 --steps 1 ;;
  esac
  ours collectives 30 collectives --world 2 --through memory
}

sanitize() {
  tool=$(cuda_tool compute-sanitizer)
  [ "$size" = full ] || { note sanitize "compute-sanitizer watches GPUs, and $device is none; the emulator has an ASan build: test/ffi/sanitizer.test.ts"; return; }
  [ -n "$tool" ] || { note sanitize "compute-sanitizer was not found on PATH, in CUDA_HOME or in /usr/local/cuda"; return; }
  for check in memcheck racecheck; do
    ours "$check" 600 tests --files ffi/ops,ffi/tensor_cores,ffi/optimizer,ffi/contrast,ffi/pack --seconds 300 --named "$check" \
      --under "$tool --tool $check --error-exitcode 9 --target-processes all"
  done
}

profile() {
  tool=$(cuda_tool ncu)
  [ "$size" = full ] || { note profile "ncu reads the counters of GPUs, and $device is none"; return; }
  [ -n "$tool" ] || { note profile "ncu was not found on PATH, in CUDA_HOME or in /usr/local/cuda"; return; }
  report=${out%.json}.ncu.txt
  : >"$report"
  kernels='regex:k_(gemm|simt_gemm|flash|join|add_rms|rms|silu|adamw)'
  for bench in "ops --shape llama-7b --tokens 1,32 --repeat 1" "training --shape llama-7b --layers 1 --rows 1 --steps 1"; do
    say "ncu, at most 300 s: $bench"
    # shellcheck disable=SC2086
    timeout -k 5 300 "$tool" --clock-control none --set basic -k "$kernels" -c 60 --target-processes all \
      "$bun" bench/gpu/${bench%% *}.ts --device "$device" ${bench#* } >>"$report" 2>&1
  done
  if grep -q ERR_NVGPUCTRPERM "$report"; then note profile "the driver lets administrators alone read counters (ERR_NVGPUCTRPERM)"
  elif ! grep -q 'k_[a-z_]*' "$report"; then note profile "ncu told of no kernel; its last words are in $report" failed
  else say "what ncu says is in $report"; fi
}

case "$mode-$size" in
  bench-full) full ;;
  bench-tiny) tiny ;;
  *) "$mode" ;;
esac
finish
