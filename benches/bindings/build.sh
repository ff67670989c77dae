#!/usr/bin/env bash
# Builds what agentcg-bench has C and Go do, against libagentcg as it is shipped: build.sh DIR
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(realpath -m "${1:?usage: build.sh DIR}")
"$here/../../agentcg-capi/install.sh" "$dir/prefix"
flags=("-I$dir/prefix/include" "-L$dir/prefix/lib" "-Wl,-rpath,$dir/prefix/lib")
gcc -O2 -std=c99 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror "$here/c/bench.c" -o "$dir/bench-c" "${flags[@]}" -lagentcg
export CGO_CFLAGS=${flags[0]} CGO_LDFLAGS="${flags[1]} ${flags[2]}"
cd "$here" && go build -o "$dir/bench-go" .
