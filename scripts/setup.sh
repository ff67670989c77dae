#!/usr/bin/env bash
# Installs what building, testing and the demo need, on Debian 12 or 13; does nothing where it is there already.
#
#   AGENTCG_CACHE   where downloads, tools and test kernels go (default: ~/.cache/agentcg)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${AGENTCG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agentcg}
log=$cache/setup.log
rust=1.95
virtiofsd=1.14.0

packages=(
  # the library and its BPF programs
  gcc g++ make pkg-config clang-19 clang-format-19 libclang1-19 llvm-19 libelf-dev zlib1g-dev
  # libbpf, libelf and zlib built in, for the Python wheels
  autoconf automake autopoint bison flex gawk libtool
  # the other languages, and tools to look at BPF and shell programs
  golang-go python3 python3-venv bpftool shellcheck
  # what the C library is checked with: its memory, its manual pages
  valgrind groff-base
  # what the report's page is looked at with
  chromium fonts-dejavu-core
  # what the benchmark compares with
  libbpf-tools
  # the lab: other kernels in emulated machines
  qemu-system-x86 busybox-static zstd debian-archive-keyring
  # its own kernel, besides what stands above
  bc pahole patch xz-utils
)

say() { echo "setup: $*"; }
die() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# step TEXT COMMAND...: one line for the user, the details to the log, which is shown on failure
step() {
  say "$1"
  shift
  "$@" >"$log" 2>&1 </dev/null || {
    tail -n 40 "$log" >&2
    die "failed: $*" "the whole log: $log"
  }
}

# at_least VERSION WANTED
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# absent PACKAGE...: those that are not installed
absent() {
  dpkg-query -W -f '${Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^install ok installed //p' |
    sort -u | comm -13 - <(printf '%s\n' "$@" | sort -u)
}

# install_packages PACKAGE...
install_packages() {
  local missing command
  mapfile -t missing < <(absent "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  command="apt-get install --no-install-recommends ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "not root, and these packages are missing: ${missing[*]}" "run as root: $command"
  step "updating the package lists" apt-get update
  step "installing ${missing[*]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
}

install_rust() {
  local found
  cargo_version() { cargo --version 2>/dev/null | cut -d ' ' -f 2 | grep . || echo 0; }
  found=$(cargo_version)
  if at_least "$found" "$rust"; then return; fi
  if [ "$release" -ge 13 ] || command -v rustup >/dev/null; then
    command -v rustup >/dev/null || install_packages rustup
    step "installing the stable Rust toolchain" rustup update stable
    step "making it the default" rustup default stable
    found=$(cargo_version)
  fi
  at_least "$found" "$rust" || die "Rust $rust or newer is needed, found: ${found/#0/none}" "install it with https://rustup.rs"
}

install_virtiofsd() {
  if [ "$release" -ge 13 ]; then
    install_packages virtiofsd
  elif [ ! -x "$cache/virtiofsd/bin/virtiofsd" ]; then
    install_packages libcap-ng-dev libseccomp-dev
    step "building virtiofsd $virtiofsd (a minute or two)" \
      cargo install --locked --root "$cache/virtiofsd" --version "$virtiofsd" virtiofsd
  fi
}

# Debian 12's own works too, at half the speed.
install_qemu() {
  [ "$release" -ge 13 ] || [ -d "$cache/qemu" ] ||
    step "fetching a newer QEMU for the lab" python3 "$here/tests/vm/lab.py" fetch qemu
}

install_python() {
  local venv=$cache/venv wanted=$here/requirements-dev.txt
  cmp -s "$wanted" "$venv/installed.txt" && return
  step "making the Python environment" python3 -m venv --clear "$venv"
  step "installing the Python tools" "$venv/bin/pip" install --disable-pip-version-check -r "$wanted"
  cp "$wanted" "$venv/installed.txt"
}

mkdir -p "$cache"
# shellcheck source=/dev/null
release=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_ID%%.*}") || release=
if ! command -v apt-get >/dev/null || [ "${release:-0}" -lt 12 ]; then
  die "only Debian 12 and newer are known here; install what these Debian packages contain:" \
    "${packages[*]} virtiofsd" "and Rust $rust or newer (https://rustup.rs)"
fi
install_packages "${packages[@]}"
install_rust
install_virtiofsd
install_qemu
install_python
say "ready"
