#!/usr/bin/env bash
# Sets up, builds and runs every test that a CPU machine can run.
# usage: scripts/test.sh [CTEST ARG ...]      e.g. scripts/test.sh -L unit
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${LONGHAUL_PRESET:-ci}
scripts/setup.sh "$preset"
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$(nproc)" "$@"
