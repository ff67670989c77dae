#!/usr/bin/env bash
# Measures beside the alternatives: CPU shares in a guest, the monitor's cost on this host. Keep the host quiet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release -p agentcg-bench -p agentcg-cli
bench=$PWD/target/release/agentcg-bench
# A host thread for each CPU: with one for both, a busy host distorts the shares.
tests/vm/lab.py run --kernel "${KERNEL:-7.3}" --parallel --timeout 300 -- "$bench" fairness
# bcc's tools need tracefs, which not every host has mounted; ratios are the guest's own.
tests/vm/lab.py run --kernel "${KERNEL:-7.3}" --parallel --timeout 600 -- "$bench" events --runs 200
"$bench" events --runs 2000
"$bench" wrappers # RUNEXEC=PATH names the runexec of BenchExec
# Memory protection needs a small guest; the lab's own kernel has all policies, and the traces of TRACES=DIR.
memory() { tests/vm/lab.py run --kernel memcg --parallel --timeout 900 "${@:2}" -- "$bench" memory "$1" ${TRACES:+--traces "$TRACES"}; }
memory contention --mem 512M --swap 1G
memory idle --mem 512M --swap 1G
[ -z "${TRACES:-}" ] || memory traces --mem 2G --swap 1G
memory sessions --mem 1G --swap 1G
memory cost --mem 1G
