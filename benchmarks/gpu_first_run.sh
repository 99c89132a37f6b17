#!/usr/bin/env bash
# What to run first on a big GPU: all that this package has never done on one, in three parts of
# about 9, 9 and 6 minutes on an H200.
#
#     bash benchmarks/gpu_first_run.sh 1        then 2, then 3; each may run on another day
#     bash benchmarks/gpu_first_run.sh --dry-run [1|2|3]    a tiny model, on a CPU: does all of it run?
#
# Needs torch, transformers, numpy, scipy, pyyaml, safetensors, filelock, pydantic, pytest; peft,
# accelerate and liger-kernel for their steps; no Ray and no data. Wheels of what the machine lacks
# are installed from $WHEELS (.whl), offline, into a folder of their own.
#
#     OUT      folder for log, results.jsonl (a line per measurement) and summary.md; a step whose
#              name is in its file `done` is left out, so the same command goes on where it stopped
#     PEER     a checkout of OpenUnlearning, to be measured beside ours
#     SMOLLM2  a study file on a model at hand: one trial at equal forgetting, then attacks
#
# Exit codes: 0 all steps passed; 1 one failed; 2 wrong usage; 69 there is no CUDA device.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
parts=${1:-${dry:+1 2 3}}
case $parts in 1|2|3|'1 2 3') ;; *) echo "usage: bash $0 [--dry-run] 1|2|3" >&2; exit 2 ;; esac
python=${PYTHON:-python3}
if [ -z "$dry" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "no CUDA device here: nothing was measured (--dry-run goes through all steps on a CPU)"
  exit 69
fi

: "${OUT:=$(mktemp -d)}"
: "${WHEELS:=.whl}"
mkdir -p "$OUT"
export OUT DEV=${DEV:-${dry:+cpu}}
export DEV=${DEV:-cuda:0} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
export TOKENIZERS_PARALLELISM=false PYTORCH_ALLOC_CONF=expandable_segments:True
# With one thread, the passes that a CPU makes of 7 B while it is loaded take minutes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${dry:+1}}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-16}
export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
if compgen -G "$WHEELS/*.whl" >/dev/null; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl &&
    export PYTHONPATH=$PYTHONPATH:$site
fi

failed=0
step() {  # name, seconds at most, command; none stops the next one
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  [ -z "$dry" ] || limit=$((20 * limit))   # limits are those of a GPU
  if grep -qxF "$name" "$OUT/done" 2>/dev/null; then echo "=== $name: done before"; return; fi
  echo "=== $name (at most $limit s)"
  timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$OUT/log"
  code=${PIPESTATUS[0]}
  echo "| $name | $code | $((SECONDS - began)) |" >>"$OUT/steps"
  if [ "$code" = 0 ]; then echo "$name" >>"$OUT/done"; else failed=1; fi
}
tests() { "$python" -m pytest -q -p no:cacheprovider -o addopts= -W ignore "$@"; }
loop() {  # python -O: losses that differ by rounding are printed, and end nothing
  "$python" -O benchmarks/update_loop.py --device "$DEV" --json "$OUT/results.jsonl" \
    ${PEER:+--peer "$PEER"} "$@"
}
speed() { "$python" benchmarks/gpu_speed.py "$@"; }
machine() {
  nvidia-smi -L 2>/dev/null
  "$python" -c 'import gpu_common as c, torch, transformers, sys
print(c.device_name(), "torch", torch.__version__, "transformers", transformers.__version__, "python", sys.version.split()[0])'
  nproc; free -g 2>/dev/null | head -2; df -h "${TMPDIR:-/tmp}" | tail -1
}
smollm2() {
  if [ -z "${SMOLLM2:-}" ]; then echo "no model at hand: set SMOLLM2 to a study file"; return; fi
  "$python" benchmarks/gpu_study.py "$SMOLLM2"
}
export -f tests loop speed machine smollm2
export python

small=135m middle=1b large=7b length=2048 updates=8
if [ -n "$dry" ]; then small=tiny middle=tiny large=tiny length=64 updates=1; fi
# By name: others import what such a machine lacks.
gpu_tests=$(printf 'tests/unlearn/test_%s.py ' gpu head batching optimizer liger)
size="--sequence-length $length --retain-sequences 32"
for part in $parts; do
  echo "##### part $part"
  case $part in
  1) step machine 30 bash -c machine
     step right 170 "$python" benchmarks/gpu_right.py
     step tests-gpu 100 bash -c "tests ${dry:+--collect-only} -m gpu $gpu_tests"
     step update-small 70 bash -c "loop --config $small $size --batch-size 8 --updates $updates --rounds 2"
     step update-middle 140 bash -c "loop --config $middle $size --batch-size 2 --updates $updates --rounds 2 --methods ascent kl"
     step update-lora 60 bash -c "loop --config $middle $size --batch-size 2 --updates $updates --rounds 1 --methods kl --lora 16" ;;
  2) step where-middle 200 bash -c "speed update chunks documents varlen cudnn liger --size $middle"
     step update-large 330 bash -c "loop --config $large $size --batch-size 1 --updates 4 --rounds 1 --methods descent kl" ;;
  3) step reset 60 bash -c "speed reset --size $middle"
     step keep 110 bash -c "speed keep --size $middle"   # a checkpoint of 7 B is 63 GiB
     step graphs 60 bash -c "speed graphs --size $small"
     step lanes 100 bash -c "speed lanes --size $small"
     step smollm2 120 bash -c smollm2 ;;
  esac
done

{
  echo "# GPU run, part(s) $parts"
  echo
  echo '| step | exit code | seconds |'
  echo '|---|---:|---:|'
  cat "$OUT/steps" 2>/dev/null
  echo
  grep -hE '^(PASS|FAIL)|tokens/s' "$OUT/log" | cut -c1-400
} >"$OUT/summary.md"
cat "$OUT/summary.md"
echo "results: $OUT/results.jsonl, $OUT/summary.md"
exit $failed
