"""The daemon's messages and the event stream, read while they come."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

# A line of its log: time, level, text.
LOGGED = re.compile(r"\S+\s+(?P<level>[A-Z]+)\s+(?P<text>.*)")
MOVED = re.compile(r"\S+ \(\d+\) -> \S+")
WIDTH = 84
SHOWN = 3


def end(process: subprocess.Popen[str]) -> int:
    """Ask a program to end, and wait until it has put everything back."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def shorten(text: str, width: int = WIDTH) -> str:
    """The text, or its beginning."""
    return text if len(text) <= width else text[: width - 3] + "..."


class Daemon:
    """A running agentcgroupd."""

    def __init__(self, command: list[str]) -> None:
        """Start it."""
        # No colours: the lines are read here.
        environment = {**os.environ, "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._moves = True
        self._root: Path | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until_ready(self) -> Iterator[str]:
        """Its messages until it is ready."""
        while True:
            line = self._lines.get()
            if line is None:
                raise SystemExit(f"demo: agentcgroupd ended with status {self.process.wait()}")
            message = self._text(line)
            if message.startswith("session ") and self._root is None:
                self._root = Path(message.split()[1]).parent
            yield message
            if message == "ready":
                return

    def root(self) -> Path:
        """The cgroup that the sessions are in."""
        assert self._root is not None
        return self._root

    def messages(self) -> Iterator[str]:
        """What it has said since."""
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                raise SystemExit(f"demo: agentcgroupd ended with status {self.process.wait()}")
            message = self._text(line)
            if self._moves or not MOVED.fullmatch(message):
                yield message

    def quiet_moves(self) -> None:
        """Leave out from now on which processes it moves."""
        self._moves = False

    def _text(self, line: str) -> str:
        match = LOGGED.fullmatch(line)
        if match is None:
            return line
        level = "" if match["level"] == "INFO" else match["level"].lower() + ": "
        root = f"{self._root}/" if self._root else ""
        return level + (match["text"].replace(root, "") if root else match["text"])

    def stop(self) -> None:
        """End it; it detaches, removes and restores."""
        end(self.process)


class Counts:
    """What a session's processes did."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.pids: set[int] = set()
        self.opens = 0


class Events:
    """The stream of `agentcg process`, counted by session."""

    def __init__(self, programs: Path, root: Path, commands: list[str]) -> None:
        """Start it: what is in the sessions, and what will be moved into them."""
        command = [programs / "agentcg", "process", "-m", "2", "-c", ",".join(commands), "--cgroup", root]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.counts: dict[str, Counts] = {}
        self.dropped = 0
        self._lines: queue.Queue[str] = queue.Queue()
        self._shown = True
        self._opens = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "DROPPED":
                self.dropped += event["count"]
                continue
            session = event.get("session")
            if session is None:
                continue
            counts = self.counts.setdefault(session, Counts())
            counts.pids.add(event["pid"])
            if event["event"] == "FILE_OPEN":
                counts.opens += event["count"]
            if self._shown:
                text = self._line(event)
                if text:
                    self._lines.put(f"{session:12}  {shorten(text)}")

    def _line(self, event: dict[str, Any]) -> str | None:
        comm = f"{event['comm']!s:10}"
        if event["event"] == "EXEC":
            words = [Path(word).name if word.startswith("/") else word for word in map(str, event["argv"])]
            return f"EXEC  {comm}  {' '.join(words)}"
        if event["event"] == "EXIT":
            how = f"signal {event['signal']}" if event["exit_code"] is None else f"status {event['exit_code']}"
            peak = event["memory_peak_bytes"] >> 20
            return f"EXIT  {comm}  {how}, {event['duration_ms']} ms, {peak} MiB"
        if event["event"] == "FILE_OPEN" and event["result"] >= 0:
            # There are hundreds a second: one of them now and then.
            self._opens += 1
            if self._opens % 40 == 1:
                return f"OPEN  {comm}  .../{'/'.join(Path(event['filepath']).parts[-3:])}"
        return None

    def lines(self) -> Iterator[str]:
        """Some of the events since the last call, one line each."""
        for _ in range(SHOWN):
            if self._lines.empty():
                return
            yield self._lines.get()
        more = self._lines.qsize()
        if more:
            with self._lines.mutex:
                self._lines.queue.clear()
            yield f"{'':12}  (and {more} more)"

    def hide(self) -> None:
        """Only count from now on."""
        self._shown = False

    def check(self) -> None:
        """Notice when the stream ends too early."""
        if self.process.poll() is not None:
            raise SystemExit(f"demo: agentcg process ended with status {self.process.returncode}")

    def __enter__(self) -> Events:  # noqa: PYI034 (typing.Self is newer than Python 3.9)
        """The running stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        end(self.process)
        self._thread.join(timeout=10)
