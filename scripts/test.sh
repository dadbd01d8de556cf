#!/usr/bin/env bash
# Sets up, builds and runs every test that a CPU machine can run.
# usage: scripts/test.sh [CTEST ARG ...]      e.g. scripts/test.sh -L unit
# Adds the tests to the build of scripts/demo.sh; LONGHAUL_PRESET names another (ci: warnings are errors).
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${LONGHAUL_PRESET:-default}
scripts/setup.sh "$preset"
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$(nproc)" "$@"
