#!/usr/bin/env bash
# Measures beside the alternatives, in a guest and on this host. Keep the host quiet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release -p agentcg-capi --features vendored
benches/bindings/build.sh target/bench
cargo build --release -p agentcg-bench -p agentcg-cli
bench=$PWD/target/release/agentcg-bench
python=${AGENTCG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agentcg}/venv/bin
guest() { tests/vm/lab.py run --kernel "${KERNEL:-7.3}" --timeout 3600 "$@"; }

# A host thread for each CPU: with one for both, a busy host distorts the shares.
flatcg=$("$python/python" benches/scx_flatcg.py)
guest --parallel -- "$bench" scheduler --beside "$flatcg"
# Delays of less than the host's own, and what the host's other work would decide.
guest --virtual-time --smp 1 -- "$bench" scheduler --rounds 1 --only wake-ups --beside "$flatcg"
guest --virtual-time --smp 1 -- "$bench" scheduler --only "decision cost"
for smp in 1 2; do
  guest --virtual-time --smp "$smp" -- "$bench" scheduler --rounds 1 --only "300 cgroups"
  guest --virtual-time --smp "$smp" -- "$bench" scheduler --rounds 1 --only messages
done
# bcc's tools need tracefs, which not every host has mounted; ratios are the guest's own.
guest --parallel -- "$bench" events --runs 200
# With all controllers, which not every host has.
guest --parallel -- "$bench" calls --rounds 150 --large-gib 0
guest -- "$bench" storm

"$bench" events --runs 2000
"$bench" calls --rounds 1500
VIRTUAL_ENV=${python%/bin} "$python/maturin" develop --quiet --release
"$python/python" benches/python.py
"$bench" wrappers # RUNEXEC=PATH names the runexec of BenchExec
"$bench" bindings target/bench
# Memory protection needs a small guest; the lab's own kernel has all policies. Swap is in memory, so that the emulator
# has no part in it; but in the case `idle`, where nobody swaps in the end, the kernel kills for want of memory with a
# swap that is so fast, also without any policy. The traces are those of TRACES=DIR.
memory() { tests/vm/lab.py run --kernel memcg --parallel --timeout 1800 "${@:2}" -- "$bench" memory "$1" ${TRACES:+--traces "$TRACES"}; }
memory contention --mem 512M --swap ram:1G
memory idle --mem 512M --swap 1G
[ -z "${TRACES:-}" ] || memory traces --mem 2G --swap ram:1G
memory sessions --mem 512M --swap ram:1G
memory cost --mem 1G
