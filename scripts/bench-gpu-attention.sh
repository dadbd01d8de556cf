#!/usr/bin/env bash
# Builds the Hopper attention kernel, checks it and times it beside PyTorch's cuDNN attention on one GPU.
# usage: scripts/bench-gpu-attention.sh [build folder]   (needs nvcc, CMake, GoogleTest and a python3
# with a CUDA build of PyTorch 2.11 or newer). Prints two tables; JSON goes to the build folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build/gpu}

cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DLONGHAUL_CUDA=ON
cmake --build "$build" -j --target attention_sm90_test attention_sm90_plan_test attention_sm90_shim
"$build/bin/attention_sm90_plan_test" --gtest_brief=1
"$build/bin/attention_sm90_test" --gtest_brief=1

shim=$build/tests/gpu/libattention_sm90_shim.so
suites=core,wide,small,dims,ragged
echo "== full queue: the board at its power limit, as in a long prefill"
python3 "$root/scripts/bench_gpu_attention.py" --suite $suites --json "$build/attention_steady.json" "$shim"
echo "== single calls on a rested chip, as peers publish them"
python3 "$root/scripts/bench_gpu_attention.py" --suite $suites --burst --json "$build/attention_burst.json" "$shim"
