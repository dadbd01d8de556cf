#!/usr/bin/env bash
# Measures longhaul on GPUs beside what else there is, in turn, and writes the comparison table.
# usage: scripts/bench-gpu.sh [1|4] [--rows ID,...] [--list] [--million] [--transformers] [--out DIR] [--budget SECONDS]
#   1 or 4: GPUs to use (default 1; with 4, only the rows of 4 GPUs). LONGHAUL=path of the binary (default:
#   the newest of build/*/bin/longhaul), LONGHAUL_LIBS=folders of libraries for it alone, PYTHON (python3),
#   MPIRUN (mpirun). Needs python3; its peers need torch, and without it their columns say "missing".
#   Results so far are kept in DIR (build/bench-gpu) after every row: table.md, results.json, log.txt.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if ! command -v "$python" > /dev/null; then
  echo "bench-gpu.sh: $python is not here; set PYTHON" >&2
  exit 2
fi
if [ -z "${LONGHAUL:-}" ]; then
  # shellcheck disable=SC2012  # names without surprises
  LONGHAUL=$(ls -t "$root"/build/*/bin/longhaul 2> /dev/null | head -n 1)
fi
if [ -z "$LONGHAUL" ] || [ ! -x "$LONGHAUL" ]; then
  echo "bench-gpu.sh: no program at '${LONGHAUL:-build/*/bin/longhaul}'; build longhaul or set LONGHAUL" >&2
  exit 2
fi
export LONGHAUL
exec "$python" "$root/scripts/bench_gpu.py" "$@"
