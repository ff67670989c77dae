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
posix=-D_XOPEN_SOURCE=700

# The header in every language that it is for.
header=(-fsyntax-only "${strict[@]}" "$dir/prefix/include/agentcg.h")
gcc -x c -std=c99 "${header[@]}"
gcc -x c -std=c11 "${header[@]}"
g++ -x c++ -std=c++11 "${header[@]}"

for program in misuse capi calls; do
  gcc -g -std=c11 $posix "${strict[@]}" "$here/$program.c" -o "$dir/$program" "${shared[@]}" -pthread
  gcc -g -std=c11 $posix -fsanitize=address,undefined -fno-omit-frame-pointer "${strict[@]}" \
    "$here/$program.c" -o "$dir/$program-asan" "${shared[@]}" -pthread
done
for program in events run; do
  gcc -std=c99 $posix "${strict[@]}" "$root/examples/$program.c" -o "$dir/$program" "${shared[@]}"
done
g++ -x c++ -std=c++11 "${strict[@]}" "$here/version.c" -o "$dir/version-c++" "${shared[@]}"
gcc -std=c99 "${strict[@]}" "$here/version.c" -o "$dir/version-static" "${static[@]/#-lagentcg/-l:libagentcg.a}"
