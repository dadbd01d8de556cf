#!/usr/bin/env bash
# Format (clang-format 14, .clang-format) and static checks (clang-tidy, .clang-tidy).
# usage: scripts/lint.sh format            exit 1 when a file is not formatted
#        scripts/lint.sh tidy [FILE ...]   clang-tidy on FILEs, or on all sources (many minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  format)
    tool=$(command -v clang-format-14 || command -v clang-format || true)
    if [ -z "$tool" ] || ! "$tool" --version | grep -q 'version 14\.'; then
      echo "longhaul: clang-format 14 is not installed: the format was not checked"
      exit 77
    fi
    git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs "$tool" --dry-run -Werror ;;
  tidy)
    build=${LONGHAUL_BUILD:-build/default}
    [ -f "$build/compile_commands.json" ] || {
      echo "longhaul: $build/compile_commands.json is missing; configure with cmake --preset default" >&2
      exit 2
    }
    shift
    files=("$@")
    [ ${#files[@]} -gt 0 ] || mapfile -t files < <(git ls-files 'runtime/*.cpp' 'comm/*.cpp' 'attention/*.cpp' 'moe/*.cpp' 'apps/*.cpp')
    printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$build" ;;
  *)
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2 ;;
esac
