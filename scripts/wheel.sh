#!/usr/bin/env bash
# Makes target/wheels/agentcg-*-manylinux_2_28_x86_64.whl: one for all Pythons from 3.9 on, that needs nothing but libc.
# zig compiles against an old glibc; libbpf, libelf and zlib are built in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${AGENTCG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agentcg}/venv
rm -f target/wheels/*.whl
PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv maturin build --quiet --release --zig --compatibility manylinux_2_28 \
  --features vendored --out target/wheels
ls -l target/wheels/*.whl
