#!/usr/bin/env bash
# Installs the C library: agentcg.h, libagentcg.so.0, libagentcg.a, agentcg.pc and the manual pages.
#
#   install.sh PREFIX [BUILT]   BUILT: where cargo put the libraries (default: target/release)
#
#   DESTDIR                     put before PREFIX when files are copied, for packagers
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=${1:?usage: install.sh PREFIX [BUILT]}
built=${2:-$here/target/release}
to=${DESTDIR:-}$prefix
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/Cargo.toml")

install -Dm 644 "$here/include/agentcg.h" "$to/include/agentcg.h"
install -Dm 755 "$built/libagentcg.so" "$to/lib/libagentcg.so.$version"
# Its own SONAME says what programs will ask for.
soname=$(readelf -d "$built/libagentcg.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
ln -sf "libagentcg.so.$version" "$to/lib/$soname"
ln -sf "$soname" "$to/lib/libagentcg.so"
install -Dm 644 "$built/libagentcg.a" "$to/lib/libagentcg.a"
mkdir -p "$to/lib/pkgconfig"
# Without the feature `vendored` programs that link statically need what the shared library needs.
static=$(readelf -d "$built/libagentcg.so" | sed -n 's/.*NEEDED.*\[lib\(elf\|z\)\..*/ -l\1/p' | tr -d '\n')
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|; s|@STATIC@|$static|" "$here/agentcg-capi/agentcg.pc.in" \
  >"$to/lib/pkgconfig/agentcg.pc"
python3 "$here/agentcg-capi/man.py" "$here/include/agentcg.h" "$to/share/man/man3" "$version"
