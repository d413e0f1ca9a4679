#!/bin/sh
# bench/gpu.sh: builds, checks and times everything on a machine with an NVIDIA GPU inside ten minutes, and ends in one table and a
# JSON file. Without a GPU it does the same at tiny sizes on the emulator or the CPU, which says nothing about speed.
#
#   bench/gpu.sh [--device cuda|emu|cpu] [--python python3] [--out FILE.json] [--minutes 10]
#
# Every step runs under a time limit of its own; one that fails or is stopped is named in the table, and the others go on. Koala
# and its peer take turns (ours, theirs, ours). A peer that is not installed is printed as skipped. It ends with 1 where a check
# failed. Results that shall stay are copied by hand to bench/results/, with commit and date in their name.
set -u
cd "$(dirname "$0")/.." || exit 1

device= python=python3 out= minutes=10
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=${2:?--device needs a value} ;;
    --python) python=${2:?--python needs a value} ;;
    --out) out=${2:?--out needs a value} ;;
    --minutes) minutes=${2:?--minutes needs a value} ;;
    *) echo "usage: bench/gpu.sh [--device cuda|emu|cpu] [--python python3] [--out FILE.json] [--minutes 10]" >&2; exit 2 ;;
  esac
  shift 2
done

bun=${KOALA_BUN:-bun}
command -v "$bun" >/dev/null 2>&1 || { echo "gpu.sh: $bun was not found; put bun on the PATH or name it in KOALA_BUN." >&2; exit 1; }
if [ -z "$device" ]; then
  if nvidia-smi -L >/dev/null 2>&1; then device=cuda; else device=emu; fi
fi
case "$device" in cuda*) size=full ;; *) size=tiny ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rows=$work/rows.jsonl
: >"$rows"
deadline=$(($(date +%s) + minutes * 60))

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
    why="ended with $code: $(grep -v '^ *at \|^$\|^Bun v' "$work/log" | tail -n 3)"
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

case "$device" in
  cuda*) run build 120 ours "$bun" ffi/build.ts --cuda ;;
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

no_peer=$(missing_peer)
[ -z "$no_peer" ] || note peers "$no_peer"
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

if [ "$size" = full ]; then
  ours ops 60 ops --shape llama-7b
  peer "reference (transformers)" 60 reference --shape llama-7b --layers 4 --context 64 --out "$work/reference" &&
    ours parity 60 parity --reference "$work/reference"
  rm -rf "$work/reference"
  ours "inference 7b" 60 inference --shape llama-7b --batch 1,8,32,128
  ours "inference 13b" 40 inference --shape llama-13b --batch 32 --prefill 0
  ours "inference 8b" 50 inference --shape llama-3-8b --batch 256 --prefill 0
  peer "inference (transformers)" 120 inference --shape llama-7b --batch 1,32 --compile
  ours "inference 7b again" 40 inference --shape llama-7b --batch 1,32
  ours training 50 training --shape llama-7b --layers 8 --rows 4 --tokens 2048
  peer "training (transformers)" 90 training --shape llama-7b --layers 8 --rows 4 --tokens 2048 --compile
  ours "training 13b" 70 training --shape llama-13b --layers 40 --rows 1 --tokens 2048 --steps 1 --recompute block
  ours ranks 50 ranks --ranks 2,8
  ours collectives 30 collectives --world 8 --through memory
  ours "collectives nccl" 60 collectives --world 2 --through nccl
else
  ours ops 30 ops --shape tiny --tokens 1,9 --context 40 --repeat 1
  peer "reference (transformers)" 60 reference --shape tiny --layers 2 --context 32 --out "$work/reference" &&
    ours parity 60 parity --reference "$work/reference"
  ours inference 30 inference --shape tiny --batch 1,2 --context 24 --prefill 24 --repeat 3
  peer "inference (transformers)" 60 inference --shape tiny --batch 1,2 --context 24 --prefill 24
  ours training 30 training --shape tiny --layers 2 --rows 2 --tokens 16 --steps 3
  peer "training (transformers)" 60 training --shape tiny --layers 2 --rows 2 --tokens 16
  ours ranks 60 ranks --ranks 2 --steps 2
  ours collectives 30 collectives --world 2 --through memory
fi

name=gpu-$(printf '%s' "$device" | tr ':' '-')-$(date -u +%Y-%m-%d)-$(git describe --always --abbrev=12 2>/dev/null || echo unknown)
mkdir -p build
out=${out:-build/$name.json}
"$bun" bench/gpu/report.ts --rows "$rows" --out "$out" --doctor "$work/doctor.json" --device "$device" --size "$size"
code=$?
say "the figures are in $out; to keep them: cp $out bench/results/$name.json"
[ "$size" = full ] || say "tiny sizes on $device: these figures show that everything runs, not how fast."
exit "$code"
