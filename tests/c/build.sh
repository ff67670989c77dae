#!/usr/bin/env bash
# Installs the C library below DIR/prefix and builds the programs of the C tests against it: build.sh DIR [BUILT]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
dir=$(realpath -m "${1:?usage: build.sh DIR [BUILT]}")
"$root/agentcg-capi/install.sh" "$dir/prefix" "${2:-$root/target/debug}"

export PKG_CONFIG_PATH=$dir/prefix/lib/pkgconfig
read -ra cflags < <(pkg-config --cflags agentcg)
read -ra libs < <(pkg-config --libs agentcg)
read -ra static < <(pkg-config --libs --static agentcg)
strict=(-pedantic -Wall -Wextra -Werror "${cflags[@]}")
shared=("${libs[@]}" "-Wl,-rpath,$dir/prefix/lib")

gcc -std=c99 -D_POSIX_C_SOURCE=200809L "${strict[@]}" "$here/capi.c" -o "$dir/capi" "${shared[@]}"
gcc -std=c99 -D_POSIX_C_SOURCE=200809L "${strict[@]}" "$root/examples/events.c" -o "$dir/events" "${shared[@]}"
g++ -x c++ -std=c++11 "${strict[@]}" "$here/version.c" -o "$dir/version-c++" "${shared[@]}"
gcc -std=c99 "${strict[@]}" "$here/version.c" -o "$dir/version-static" "${static[@]/#-lagentcg/-l:libagentcg.a}"
