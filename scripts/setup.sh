#!/usr/bin/env bash
# Installs what longhaul builds on (Debian 12 or Ubuntu 24.04) and builds it into build/<preset>.
# usage: scripts/setup.sh [PRESET [TARGET ...]]        PRESET: default (or ci, debug, asan, tsan)
# Without a TARGET it builds everything, the tests too; `longhaul` is the command alone.
# Run by scripts/demo.sh and scripts/test.sh; does nothing that is already done.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-default}
targets=("${@:2}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Runs a command whose output only matters when it fails.
quietly() {
  local what=$1
  shift
  "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    echo "longhaul: $what failed (above)" >&2
    exit 1
  }
}

packages=(build-essential cmake ninja-build pkg-config ccache
  libopenmpi-dev openmpi-bin libhdf5-dev hdf5-tools libdnnl-dev libpcre2-dev libutf8proc-dev
  libxxhash-dev libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libhwy-dev
  libgtest-dev jq)

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || {
    echo "longhaul: packages are missing and there is no apt-get to install them: ${missing[*]}" >&2
    exit 2
  }
  sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "longhaul: packages are missing and there is no sudo; as root, run this again, or:" >&2
      echo "  apt-get install -y --no-install-recommends ${missing[*]}" >&2
      exit 2
    }
    sudo=(sudo)
  fi
  echo "== installing (some minutes): ${missing[*]}"
  quietly "reading the package lists" "${sudo[@]}" apt-get update -q
  quietly "the installation" "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}"
fi

if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  echo "== CUDA toolkit found: GPU kernels are built too where it is 12.4 or newer (some minutes more)"
else
  echo "== no CUDA toolkit found: GPU kernels are left out; CPU ranks need nothing of them"
fi

launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
echo "== building preset $preset"
quietly "the configuration" cmake --preset "$preset" "${launcher[@]}"
cmake --build --preset "$preset" -j "$(nproc)" ${targets:+--target "${targets[@]}"}
