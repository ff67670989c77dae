#!/usr/bin/env bash
# The test suite, in parts; every part runs, and a table at the end says what failed and how long it took.
#
#   scripts/test.sh            all parts
#   scripts/test.sh PART...    these only
#   KERNELS="7.3 6.12:run"     the kernels of the part `kernels`, and what is in the names of the tests on them: on
#                              `memcg`, which differs from 7.3 in memory protection alone, only the tests of that
# shellcheck disable=SC2317 # the parts are called by their names
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# Commands under test read what they inherit; at a terminal they would wait for somebody to type.
exec </dev/null
cache=${AGENTCG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agentcg}
venv=$cache/venv/bin
reports=target/kernel-tests
read -ra kernels <<<"${KERNELS:-7.3 6.18:all_its_bpf_programs_load 6.16 6.12 memcg:memory::}"

lint() {
  local bad=0
  cargo fmt --check || bad=1
  clang-format-19 --dry-run -Werror bpf/*.[ch] bpf/*/*.h benches/bpf/*.c benches/src/*.c tests/c/*.[ch] examples/*.c benches/bindings/c/*.c || bad=1
  "$venv/ruff" check --quiet . || bad=1
  "$venv/ruff" format --quiet --check . || bad=1
  "$venv/mypy" || bad=1
  shellcheck scripts/*.sh benches/*.sh benches/bindings/*.sh tests/c/*.sh agentcg-capi/*.sh .ci/run || bad=1
  local unformatted
  unformatted=$(gofmt -l go examples benches)
  if [ -n "$unformatted" ]; then
    echo "not formatted by gofmt: $unformatted"
    bad=1
  fi
  return "$bad"
}

build() { cargo build --workspace --bins --lib && cargo test --workspace --no-run; }
clippy() { cargo clippy --workspace --all-targets -- -D warnings; }
docs() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps; }
rust() { cargo test --workspace; }
package() { cargo package -p agentcg-core --allow-dirty; }
fuzz() {
  local target
  for target in fuzz_events fuzz_input; do
    cargo run -q -p agentcg-fuzz --bin "$target" -- -runs=200000 -seed=1 -max_len=1024 -verbosity=0 || return 1
  done
}
lab() { "$venv/pytest" -q tests/vm; }

python() {
  VIRTUAL_ENV=$cache/venv "$venv/maturin" develop --quiet &&
    "$venv/python" -m mypy.stubtest agentcg --allowlist tests/python/stubtest.txt &&
    "$venv/pytest" -q tests/python
}

# The wheel as users get it, with other Pythons than that of the tests.
wheel() { scripts/wheel.sh && "$venv/pytest" -q tests/wheel; }

# libagentcg as it is shipped, installed below target/, and used from there by C, C++ and Go
install_c() {
  cargo build -p agentcg-capi --features vendored && rm -rf target/c && tests/c/build.sh target/c
}
c() { install_c && AGENTCG_C_BUILD=$PWD/target/c "$venv/pytest" -q tests/c; }

golang() (
  built=$PWD/target/c
  [ -x "$built/calls" ] || install_c || exit
  export CGO_CFLAGS=-I$built/prefix/include CGO_LDFLAGS="-L$built/prefix/lib -Wl,-rpath,$built/prefix/lib"
  cd go/agentcg && go vet ./... && go test -count=1 -race ./... && go test -c -o "$built/go-test" . || exit
  cd ../../examples/go && go vet ./... || exit
  for example in run events; do go build -o "$built/go-$example" "./$example" || exit; done
  cd ../.. && AGENTCG_C_BUILD=$built "$venv/pytest" -q tests/go
)

# The same tests where sched_ext and the controllers are, but for those that these make no difference to: processes are
# slow there.
bindings() {
  # shellcheck disable=SC2016 # the guest expands it
  tests/vm/lab.py run --kernel 7.3 --timeout 600 --env AGENTCG_LAB=7.3 --env "AGENTCG_C_BUILD=$PWD/target/c" --env "VENV=$venv" \
    --env "ROOT=$PWD" -- \
    'cd "$ROOT" && HOME=/mnt/out TMPDIR=/mnt/out PYTHONDONTWRITEBYTECODE=1 "$VENV/pytest" -p no:cacheprovider -q tests/python tests/c tests/go \
      --ignore tests/python/test_report.py --ignore tests/python/test_popen.py --ignore tests/python/test_async.py \
      --ignore tests/python/test_lifecycle.py --ignore tests/python/test_admission.py \
      -k "not (test_run or test_integrations or walk_through) or oom or limits or auto_learns or (pytest_plugin and not asked_for and not cannot_be)"'
}

# The kernel with memcg_bpf_ops: built once, then cached by its content. Debian's know none.
kernel() { tests/vm/lab.py fetch memcg; }

kernels() {
  local program kernel bad=0 files=() only
  program=$(cargo test -p agentcg-kernel-tests --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/kernel-[^"]*\)".*/\1/p' | head -n 1)
  [ -n "$program" ] || return 1
  for kernel in "${kernels[@]}"; do
    only=()
    [[ $kernel != *:* ]] || only=(--filter "${kernel#*:}")
    kernel=${kernel%%:*}
    files+=("$reports/$kernel.json")
    tests/vm/lab.py test --kernel "$kernel" --swap 512M --timeout 1500 "${only[@]}" --report "$reports/$kernel.json" "$program" || bad=1
  done
  # Other machines, on one kernel; where it is only one that is tested, nobody asks for that.
  other() {
    files+=("$reports/$1.json")
    tests/vm/lab.py test --kernel 7.3 --timeout 300 --filter "$2" "${@:3}" --report "$reports/$1.json" "$program" || bad=1
  }
  if [ ${#kernels[@]} -gt 1 ]; then
    other cores scheduler::cores --smp 4,sockets=2,threads=2
    other isolcpus scheduler::isolcpus --append isolcpus=1
  fi
  tests/vm/lab.py summary "${files[@]}" || bad=1
  return "$bad"
}

all=(lint build clippy docs rust fuzz package python wheel c golang lab bindings kernel kernels)
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")
bad=0
table=
said=$(mktemp -d)
trap 'rm -r "$said" "$said.again"' EXIT
for part in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $part "* ]] || {
    echo "test.sh: there is no part $part; the parts: ${all[*]}" >&2
    exit 2
  }
  echo "==> $part"
  since=$SECONDS
  if "$part" 2>&1 | tee "$said/$part"; then word=ok; else word=FAILED bad=1; fi
  grep -a '^SECOND TRY' "$said/$part" | cut -c1-150 >>"$said.again"
  [ $word = FAILED ] || rm "$said/$part"
  table+=$(printf '%-10s %-7s %4d s' "$part" $word $((SECONDS - since)))$'\n'
done
for part in "$said"/*; do
  [ -e "$part" ] && printf '\n==> the end of %s\n' "${part##*/}" && tail -n 30 "$part"
done
printf '\n%s%-10s %-7s %4d s\n' "$table" all "$([ $bad = 0 ] && echo ok || echo FAILED)" $SECONDS
cat "$said.again"
# Whoever sees the last lines of a long log only sees what failed.
for part in "$said"/*; do
  [ -e "$part" ] && grep -aE 'FAILED|panicked at|^error|^Fatal' "$part" | cut -c1-400 | tail -n 5 | sed "s/^/${part##*/}: /"
done
exit $bad
