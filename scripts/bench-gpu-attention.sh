#!/usr/bin/env bash
# Builds the Hopper attention kernel, checks it and times it beside PyTorch's cuDNN attention on one GPU.
# usage: scripts/bench-gpu-attention.sh [build folder]   (needs nvcc, CMake, GoogleTest and a python3
# with a CUDA build of PyTorch 2.11 or newer). Prints three tables; JSON goes to the build folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build/gpu}

cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DLONGHAUL_CUDA=ON
cmake --build "$build" -j --target attention_sm90_test attention_sm90_features_test \
  attention_sm90_plan_test attention_sm90_bench attention_sm90_shim
"$build/bin/attention_sm90_plan_test" --gtest_brief=1
"$build/bin/attention_sm90_test" --gtest_brief=1
"$build/bin/attention_sm90_features_test" --gtest_brief=1

shim=$build/tests/gpu/libattention_sm90_shim.so
suites=core,wide,small,dims,ragged,pages
echo "== full queue: the board at its power limit, as in a long prefill"
python3 "$root/scripts/bench_gpu_attention.py" --suite $suites --json "$build/attention_steady.json" "$shim"
echo "== single calls on a rested chip, as peers publish them"
python3 "$root/scripts/bench_gpu_attention.py" --suite $suites --burst --json "$build/attention_burst.json" "$shim"
echo "== small calls: heads, kv heads, head dim, keys, causal, repeats, queries (graph_ms: without the host)"
while read -r row; do
  # shellcheck disable=SC2086
  "$build/bin/attention_sm90_bench" $row
done <<'ROWS'
8 1 128 1024 1 100
32 4 128 1024 1 100 256
32 4 128 1024 1 100 128
32 4 128 4096 1 100 1
32 4 128 32768 1 100 1
32 4 128 131072 1 50 1
32 4 128 131072 1 50 8
ROWS
