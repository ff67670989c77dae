"""The lab's own tests: they boot a few guests, about four seconds each.

AGENTCG_TEST_KERNEL names the kernel to boot.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import archive
import cache
import guest
import kernels
import libtest
import memcg
import report
import swap

LAB = Path(__file__).with_name("lab.py")
KERNEL = os.environ.get("AGENTCG_TEST_KERNEL", "7.3")


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(LAB), *arguments]


def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return lab("run", "--kernel", KERNEL, *arguments)


def processes_with(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text()
        except OSError:
            continue
        if mark in line and LAB.name not in line:
            found.append(line)
    return found


def gone(mark: str) -> bool:
    """Whether the guest's processes end, at once or in the time that a killed process takes to go."""
    deadline = time.monotonic() + 5
    while processes_with(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# -- guests --------------------------------------------------------------------------------------------------------


def test_guest_is_what_the_tests_need(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        *("--out", str(out), "--env", "GREETING=it's me", "--swap", "64M"),
        "--",
        """
        set -x
        [ "$(id -u)" = 0 ] && [ "$GREETING" = "it's me" ] && [ "$PWD" = /mnt/out ] || exit 1
        grep -q '^/dev/vda' /proc/swaps || exit 2
        for file in cgroup.controllers cgroup.pressure cpu.stat; do [ -e /sys/fs/cgroup/$file ] || exit 3; done
        grep -q '^cgroup2 /sys/fs/cgroup.*nsdelegate.*memory_recursiveprot' /proc/mounts || exit 4
        [ "$(grep -c cgroup /proc/mounts)" = 1 ] && [ -d /sys/kernel/tracing/events ] || exit 5
        touch /etc/written "$HOME/written" && exit 6
        touch "$TMPDIR/written" /run/written /dev/shm/written || exit 7
        echo shown >/dev/stderr && echo kept >result
        sleep 1000 &
        exit 42
        """,
    )
    assert done.returncode == 42, done.stdout + done.stderr
    assert "\nshown\n" in done.stdout
    assert (out / "result").read_text() == "kept\n"
    assert [path.name for path in out.iterdir()] == ["result"]
    assert not Path("/etc/written").exists()


def test_output_comes_back_intact() -> None:
    code = "import sys; [sys.stdout.buffer.write(bytes(range(256))) for _ in range(4096)]"
    line = command("run", "--kernel", KERNEL, "--", "/usr/bin/python3", "-c", code)
    done = subprocess.run(line, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(range(256)) * 4096


def test_output_is_live_and_a_timeout_leaves_nothing(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), "--timeout", "15", "--", "echo early; sleep 1000")
    assert done.returncode == guest.TIMED_OUT
    assert done.stdout == "early\n"
    assert done.stderr == f"lab: {KERNEL}: timed out after 15 s\n"
    assert gone(str(tmp_path))


def test_virtual_time_does_not_see_the_host() -> None:
    # A minute of sleep is over at once, for nothing happens in it.
    since = time.monotonic()
    done = run("--virtual-time", "--smp", "1", "--", "sleep 60; cut -d. -f1 /proc/uptime")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 60
    assert time.monotonic() - since < 60


def test_in_parallel_timers_come_before_processors() -> None:
    line = command("run", "--kernel", KERNEL, "--parallel", "--", "echo up; sleep 1000")
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        [emulator] = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("qemu")]
        policies = {
            task.name: os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{emulator}/task").iterdir()
        }
        process.kill()
    assert policies.pop(emulator) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    assert len(policies) >= 2
    assert set(policies.values()) == {os.SCHED_OTHER}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_lab_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    line = command("run", "--kernel", KERNEL, "--out", str(tmp_path), "--", "echo up; sleep 1000")
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        assert processes_with(str(tmp_path))
        process.send_signal(number)
        assert process.wait(10) == (-number if number == signal.SIGKILL else 128 + number)
    assert gone(str(tmp_path))


def test_a_panic_is_told_from_a_failure() -> None:
    done = run("--", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 1000")
    assert done.returncode == guest.GUEST_DIED
    assert "Kernel panic" in done.stderr


# -- kernels and packages ------------------------------------------------------------------------------------------


def test_an_unknown_kernel_is_one_clear_line() -> None:
    done = lab("run", "--kernel", "5.4", "--", "true")
    assert done.returncode == 126
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "'5.4'" in done.stderr
    assert "6.16" in done.stderr


def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_text("no kernel")
    with pytest.raises(cache.LabError, match="no kernel"):
        kernels.find(str(tmp_path / "bzImage"))


def test_packages_are_chosen_by_version() -> None:
    names = [
        "linux-image-6.16.12+deb13-cloud-amd64",
        "linux-image-6.16.3+deb13-cloud-amd64",
        "linux-image-6.16.3+deb13-cloud-amd64-unsigned",
        "linux-image-6.12.9+deb12-cloud-amd64",
        "linux-image-6.12.90+deb12-cloud-amd64",
        "linux-image-6.12.90+deb12.1-cloud-amd64",
        "linux-headers-6.12.99+deb12-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.4+deb13-cloud-amd64",
    ]
    assert kernels.STOCK["6.16"].choose(names) == ["linux-image-6.16.3+deb13-cloud-amd64"]
    assert kernels.STOCK["6.12"].choose(names) == ["linux-image-6.12.90+deb12.1-cloud-amd64"]
    assert kernels.STOCK["7.3"].choose(names) == [
        "linux-binary-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.4+deb13-cloud-amd64",
    ]
    with pytest.raises(cache.LabError, match=r"6\.18"):
        kernels.STOCK["6.18"].choose(names)


DEB822 = """\
# Somebody else's
Types: deb
URIs: https://other.example/debian
Suites: nodistro
Components: main

Types: deb deb-src
# a comment inside
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/debian
 http://second.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
ONE_LINE = """\
# deb http://commented.example/debian trixie main
deb [arch=amd64 signed-by=/etc/apt/keyrings/other.gpg] https://other.example/debian cloud-sdk main
deb http://docker.example/linux/debian trixie stable
deb-src http://sources.example/debian trixie main
deb [ arch=amd64 ] http://mirror.example/debian/ trixie main contrib # here
deb http://mirror.example/debian trixie-backports main
"""


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("sources.list.d/debian.sources", DEB822, "http://mirror.example/debian"),
        ("sources.list", ONE_LINE, "http://mirror.example/debian/"),
        ("sources.list.d/one.list", ONE_LINE, "http://mirror.example/debian/"),
    ],
)
def test_the_archive_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str, expected: str
) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / file).write_text(content)
    monkeypatch.delenv("AGENTCG_DEBIAN_MIRROR", raising=False)
    assert archive.mirror(archive.machine_entries(tmp_path)) == expected
    monkeypatch.setenv("AGENTCG_DEBIAN_MIRROR", "http://own.example/debian")
    assert archive.mirror(archive.machine_entries(tmp_path)) == "http://own.example/debian"


def test_no_archive_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTCG_DEBIAN_MIRROR", raising=False)
    with pytest.raises(cache.LabError, match="AGENTCG_DEBIAN_MIRROR"):
        archive.mirror(archive.machine_entries(tmp_path))


# -- test programs -------------------------------------------------------------------------------------------------

PASSING = """\
::agentcg-lab begin 0

running 6 tests
test a::plain ... ok
test a::late ... at first: too late
ok
test a::noisy ... child says hi
and more
ok
test a::noisy_to_the_end ... no newlineok
test a::panics - should panic ... ok
test a::moon ... ignored, needs the moon

test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

::agentcg-lab end 0
"""
FAILING = """\
::agentcg-lab begin 0
running 2 tests
test [kernel] good ... ok
test bad           ... FAILED

failures:

---- bad stdout ----
test confusing ... ok
left: 1

failures:
    bad

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
::agentcg-lab end 101
"""
CRASHING = """\
::agentcg-lab begin 0
running 2 tests
test good ... ok
test crashes ... last words::agentcg-lab end 139
"""


def read(text: str, why: str = "ended") -> libtest.Reader:
    reader = libtest.Reader(["program"], lambda _test: None)
    for start in range(0, len(text), 7):
        reader.feed(text[start : start + 7].encode())
    reader.close(why)
    return reader


def statuses(reader: libtest.Reader) -> dict[str, str]:
    return {test.name: test.status for test in reader.tests}


def test_results_are_read_through_noise() -> None:
    reader = read(PASSING)
    assert statuses(reader) == {
        "a::plain": report.OK,
        "a::late": report.OK,
        "a::noisy": report.OK,
        "a::noisy_to_the_end": report.OK,
        "a::panics": report.OK,
        "a::moon": report.SKIPPED,
    }
    assert reader.tests[-1].reason == "needs the moon"
    assert [test.name for test in reader.tests if test.at_second()] == ["a::late"]
    assert reader.tests[1].reason == "at first: too late"
    assert reader.binaries == [report.Binary("program", 0, "")]


def test_a_failure_has_its_output() -> None:
    reader = read(FAILING)
    assert statuses(reader) == {"good": report.OK, "bad": report.FAILED}
    assert reader.tests[1].output == "test confusing ... ok\nleft: 1"
    assert reader.binaries == [report.Binary("program", 101, "")]


def test_a_crash_fails_the_running_test() -> None:
    reader = read(CRASHING)
    assert statuses(reader) == {"good": report.OK, "crashes": report.FAILED}
    assert reader.tests[1].output == "last words\nprogram ended in this test: exit status 139"
    assert "did not finish" in reader.binaries[0].problem


def test_a_timeout_fails_the_running_test() -> None:
    reader = read(CRASHING.partition("::agentcg-lab end")[0], "timed out")
    assert statuses(reader) == {"good": report.OK, "crashes": report.FAILED}
    assert reader.binaries == [report.Binary("program", None, "program did not finish: timed out")]


def test_a_wrong_count_is_a_problem() -> None:
    assert "not understood" in read(PASSING.replace("5 passed", "6 passed")).binaries[0].problem


def make_report(directory: Path, kernel: str, **results: str) -> str:
    tests = [report.Test("program", name, status, 0.1) for name, status in results.items()]
    failed = report.FAILED in results.values()
    path = directory / f"{kernel}.json"
    report.Report(kernel, 1.0, [report.Binary("program", 101 if failed else 0)], tests).write(path)
    return str(path)


def test_summary_accepts_a_skip_on_some_kernel_only(tmp_path: Path) -> None:
    new = make_report(tmp_path, "7.3", one=report.OK, two=report.OK)
    old = make_report(tmp_path, "6.12", one=report.OK, two=report.SKIPPED)
    done = lab("summary", new, old)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["7.3", "6.12"],
        ["program::one", "ok", "ok"],
        ["program::two", "ok", "-"],
        ["3", "passed,", "0", "failed,", "0", "skipped"],
    ]
    nowhere = lab("summary", old)
    assert nowhere.returncode == 1
    assert "skipped on every kernel: program::two" in nowhere.stdout


def test_summary_fails_with_a_kernel(tmp_path: Path) -> None:
    bad = make_report(tmp_path, "7.3", one=report.OK, two=report.FAILED)
    done = lab("summary", bad)
    assert done.returncode == 1
    assert done.stdout.endswith("1 passed, 1 failed, 0 skipped\n")


# -- the kernel memcg ----------------------------------------------------------------------------------------------


def test_memcg_kernel_is_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = memcg.directory()
    copy = tmp_path / "config"
    copy.write_bytes(memcg.CONFIG.read_bytes())
    monkeypatch.setattr(memcg, "CONFIG", copy)
    assert memcg.directory() == before
    copy.write_text("CONFIG_SWAP=y\n")
    assert memcg.directory() != before


def test_memcg_configuration_has_to_hold() -> None:
    memcg.check("# a comment\nCONFIG_SWAP=y\nCONFIG_NET=n\n", "CONFIG_SWAP=y\n# CONFIG_NET is not set\n")
    with pytest.raises(cache.LabError, match="CONFIG_SWAP=y does not hold"):
        memcg.check("CONFIG_SWAP=y\n", "# CONFIG_SWAP is not set\n")
    with pytest.raises(cache.LabError, match="CONFIG_NET=n does not hold"):
        memcg.check("CONFIG_NET=n\n", "CONFIG_NET=y\n")


def test_swap_in_memory_is_not_the_guests_memory() -> None:
    kernels.find("memcg")  # builds it where it is not yet
    line = ("--mem", "512M", "--swap", "ram:256M", "--", "cat /proc/swaps /proc/meminfo")
    done = lab("run", "--kernel", "memcg", *line)
    assert done.returncode == 0, done.stderr
    device = re.search(r"^/dev/pmem0\s+partition\s+(\d+)", done.stdout, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", done.stdout, re.MULTILINE)
    assert device, done.stdout
    assert int(device[1]) == pytest.approx(256 << 10, rel=0.01), done.stdout
    assert memory, done.stdout
    assert int(memory[1]) < 512 << 10, done.stdout


def test_swap_in_memory_has_its_place(tmp_path: Path) -> None:
    kernel = kernels.Kernel("memcg", Path("image"))
    assert swap.prepare(tmp_path, kernel, "512M", "ram:1G").append == "memmap=1024M!512M"
    assert swap.prepare(tmp_path, kernel, "2G", "ram:1G").append == "memmap=1024M!4096M"
    for memory, wanted in (("1G", "ram:2G"), ("1G", "ram:much"), ("1G", "disk:1G"), ("1GB", "ram:1G")):
        with pytest.raises(cache.LabError, match=r"--(swap|mem)"):
            swap.prepare(tmp_path, kernel, memory, wanted)
    with pytest.raises(cache.LabError, match="memcg"):
        swap.prepare(tmp_path, kernels.Kernel("7.3", Path("image"), tmp_path), "1G", "ram:1G")
