"""`agentcg process` prints what docs/events.schema.json says."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agentcg
import pytest
from conftest import FOUND, needs_events
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGIN = {"timestamp": 5, "pid": 3, "ppid": 1, "comm": "sh", "uid": 0, "cgroup_id": 1}
EXIT: dict[str, Any] = {
    **ORIGIN, "event": "EXIT", "exit_code": 0, "signal": None, "core_dumped": False, "duration_ms": 1,
    "cpu_user_us": 1, "cpu_system_us": 1, "memory_peak_bytes": 4096, "read_bytes": 0, "write_bytes": 0,
    "oom_killed": False,
}  # fmt: skip
OOM_KILL: dict[str, Any] = {
    **ORIGIN, "event": "OOM_KILL", "session": "a", "limit_cgroup": "/sys/fs/cgroup/a", "limit_cgroup_id": 7,
    "limit_bytes": 4096,
}  # fmt: skip
DROPPED: dict[str, Any] = {"event": "DROPPED", "count": 1, "reason": "rate_limited"}


@pytest.fixture
def schema(repository: Path) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((repository / "docs/events.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return schema


@pytest.fixture
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(schema)


class Monitor:
    """A running `agentcg process` and the lines that it printed."""

    def __init__(self, program: Path) -> None:
        # The lines, not the text: some bytes would otherwise end a line for Python only.
        self.lines: list[bytes] = []
        self._process = subprocess.Popen(
            [program, "process", "--header", "-m", "2", "-p", str(os.getpid())], stdout=subprocess.PIPE
        )
        self._rest = b""

    def read(self, seconds: float) -> None:
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while select.select([self._process.stdout], [], [], max(0, until - time.monotonic()))[0]:
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            assert data, "agentcg process has ended"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += lines

    def end(self) -> None:
        if self._process.returncode is not None:
            return
        self._process.terminate()
        out, _ = self._process.communicate(timeout=20)
        *lines, rest = (self._rest + out).split(b"\n")
        self.lines += lines
        assert rest == b""
        assert self._process.wait() == 0


@pytest.fixture
def monitor(repository: Path) -> Iterator[Monitor]:
    program = repository / "target/debug/agentcg"
    if not program.exists():
        pytest.skip("needs target/debug/agentcg: cargo build -p agentcg-cli")
    monitor = Monitor(program)
    while not monitor.lines:  # it is attached when it reports something
        subprocess.run(["true"], check=True)
        monitor.read(0.05)
    yield monitor
    monitor.end()


def activity(directory: Path) -> None:
    odd = os.fsencode(directory) + b'/a "b"\n\t\x01\xff\xe2\x80\xa8'
    os.symlink("/bin/true", odd)  # noqa: PTH211 - a path of bytes
    Path(os.fsdecode(odd + b"file")).touch()
    subprocess.run([odd, b"", b"'\n", b"\xc3\x28", b"{}", "\U0001f600"], check=True)
    subprocess.run(["true", "x" * 50_000], check=True)
    for signal in ("TERM", "KILL", "SEGV"):
        subprocess.run(["sh", "-c", f"ulimit -c 0; kill -{signal} $$"], check=False)
    subprocess.run(["sh", "-c", "exit 255"], check=False)
    for name in (b"/etc/passwd", b"/no/such", odd, b"relative/\xff", b"/" + b"long/" * 200):
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
    # script(1) gives it a terminal.
    subprocess.run(
        ["script", "-q", "-c", "/bin/bash --norc --noprofile -i", "/dev/null"],
        input=b"echo '\xff' \"a\\\\b\" # \xe2\x80\xa8\n\nexit\n",
        stdout=subprocess.DEVNULL,
        check=True,
    )


@needs_events
@pytest.mark.skipif(not FOUND.supports("tracefs"), reason="needs tracefs, for FILE_OPEN")
@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1)")
def test_every_line_that_is_printed(monitor: Monitor, validator: Draft202012Validator, tmp_path: Path) -> None:
    activity(tmp_path)
    monitor.end()
    events = [json.loads(line) for line in monitor.lines]
    for event in events:
        validator.validate(event)
    assert events[0]["event"] == "HEADER"
    seen = {event["event"] for event in events}
    assert seen - {"DROPPED"} == {"HEADER", "EXEC", "EXIT", "FORK", "FILE_OPEN", "BASH_READLINE"}

    assert any(e["event"] == "EXEC" and e["argv"][1:] == ["", "'\n", "\ufffd(", "{}", "\U0001f600"] for e in events)
    assert any(e["event"] == "EXEC" and e["argv_truncated"] for e in events)
    ends = {(e["exit_code"], e["signal"]) for e in events if e["event"] == "EXIT"}
    assert ends >= {(0, None), (255, None), (None, 15), (None, 9), (None, 11)}
    opens = {e["filepath"]: e["result"] for e in events if e["event"] == "FILE_OPEN"}
    assert opens["/etc/passwd"] >= 0
    assert any(path.endswith('/a "b"\n\t\x01\ufffd\u2028file') for path in opens)
    assert opens["/no/such"] == -2
    assert "relative/\ufffd" in opens
    assert "/" + "long/" * 200 in opens
    lines = [e["command"] for e in events if e["event"] == "BASH_READLINE"]
    assert lines == ["echo '\ufffd' \"a\\\\b\" # \u2028", "", "exit"]


def test_what_is_rare(validator: Draft202012Validator) -> None:
    whole_machine = {**OOM_KILL, "limit_cgroup": None, "limit_cgroup_id": None, "limit_bytes": None}
    unnamed = {**OOM_KILL, "limit_cgroup": None}
    for event in (EXIT, OOM_KILL, whole_machine, unnamed, DROPPED):
        validator.validate(event)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"event": "TEA"},
        {**DROPPED, "pid": 1},
        {**DROPPED, "reason": "tea"},
        {**DROPPED, "count": 0},
        {**EXIT, "later": 1},
        {**EXIT, "child_pid": 1},
        {**EXIT, "signal": 9},
        {**EXIT, "exit_code": None},
        {**EXIT, "pid": "3"},
        {**EXIT, "session": None},
        {key: value for key, value in EXIT.items() if key != "timestamp"},
        {key: value for key, value in EXIT.items() if key != "signal"},
        {**OOM_KILL, "limit_bytes": None},
        {"event": "FORK", **ORIGIN},
    ],
)
def test_what_is_wrong(validator: Draft202012Validator, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator.validate(wrong)


def test_the_classes_have_the_same_fields(schema: dict[str, Any]) -> None:
    classes = (
        agentcg.Exec, agentcg.Exit, agentcg.Fork, agentcg.FileOpen, agentcg.BashReadline, agentcg.OomKill,
        agentcg.Dropped,
    )  # fmt: skip
    for cls in classes:
        names = set(schema["$defs"][cls.EVENT.lower()]["properties"])
        if issubclass(cls, agentcg.Origin):
            names |= set(schema["$defs"]["origin"]["properties"])
        assert {f.name for f in fields(cls)} == names - {"event"}
