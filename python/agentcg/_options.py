"""What is asked of a session or a call, made ready for the native module."""

from __future__ import annotations

import operator
import os
import subprocess

from agentcg._errors import make, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from agentcg._types import AnyPath, Args, CallOptions, File, HasFileno, PopenOptions, RunOptions


_CAPTURE = -4
"""For the native module: kept for the result, where ``PIPE`` is a pipe to the caller."""


def _limit(_name: str, value: int | str) -> str:
    """Make text of a limit: the native module has the one parser of sizes."""
    return value if isinstance(value, str) else str(operator.index(value))


def _weight(name: str, value: int) -> int:
    return within(name, value, 1, 10_000)


def _number(name: str, value: int) -> int:
    return within(name, operator.index(value), 0, (1 << 32) - 1)


def _size(name: str, value: int) -> int:
    return within(name, operator.index(value), 0, (1 << 63) - 1)


def _process_group(name: str, value: int) -> int | None:
    return None if value == -1 else within(name, value, 0, (1 << 31) - 1)


def _fds(name: str, values: Iterable[int]) -> list[int]:
    return [within(name, operator.index(value), 0, (1 << 31) - 1) for value in values]


def _umask(name: str, value: int) -> int | None:
    return None if value == -1 else within(name, value, 0, 0o777)


def _user(name: str, value: str | int) -> int:
    if isinstance(value, str):
        import pwd

        return pwd.getpwnam(value).pw_uid
    return _number(name, value)


def _group(name: str, value: str | int) -> int:
    if isinstance(value, str):
        import grp

        return grp.getgrnam(value).gr_gid
    return _number(name, value)


def _groups(name: str, values: Sequence[str | int]) -> list[int]:
    return [_group(name, value) for value in values]


def _text(word: AnyPath) -> str:
    return word if type(word) is str else os.fsdecode(word)


def _path(_name: str, value: AnyPath) -> str:
    return os.fsdecode(value)


def _env(_name: str, value: Mapping[Any, Any]) -> list[tuple[str, str]]:
    return [(_text(k), _text(v)) for k, v in value.items()]


def _is(_name: str, value: object) -> object:
    return value


def _true(_name: str, value: object) -> bool:
    return bool(value)


_LIMITS: dict[str, Callable[[str, Any], object]] = {
    "cpu_weight": _weight,
    "cpu_max": _is,
    "memory_min": _limit,
    "memory_low": _limit,
    "memory_high": _limit,
    "memory_max": _limit,
    "swap_max": _limit,
    "pids_max": _limit,
    "io_weight": _weight,
}
_OPTIONS: dict[str, Callable[[str, Any], object]] = {
    **_LIMITS,
    "hint": _is,
    "timeout": _is,
    "grace": _is,
    "cwd": _path,
    "env": _env,
    "pass_fds": _fds,
    "start_new_session": _true,
    "process_group": _process_group,
    "umask": _umask,
    "user": _user,
    "group": _group,
    "extra_groups": _groups,
    "name": _is,
    "background": _true,
    "budget": _true,
    "oom_group": _true,
    "oom_score_adj": _is,
    "sample": _is,
    "capture_limit": _size,
    "queue_timeout": _is,
    "retry": _true,
}
_CAPACITY: dict[str, Callable[[str, Any], object]] = {"memory": _limit, "cpus": _is, "calls": _size}
# Of subprocess: the value that asks for nothing, and why there is no other.
_REFUSED = {
    "preexec_fn": (
        None,
        "until the call runs its program it shares our memory (vfork), and no Python code can run in it; there are "
        "cwd, umask, user, group, start_new_session, process_group, limits, and shell=True",
    ),
    "restore_signals": (True, "a call always starts with SIGPIPE and SIGXFSZ as programs expect them"),
    "pipesize": (-1, "use fcntl(F_SETPIPE_SZ) on the pipes of popen"),
    "startupinfo": (None, "it is for Windows"),
    "creationflags": (0, "it is for Windows"),
}


def limits(given: Mapping[str, Any]) -> dict[str, object]:
    """Check the names and make the values ready."""
    return _ready(given, _LIMITS)


def capacity(given: Mapping[str, Any] | None) -> dict[str, object]:
    """Do so for a capacity."""
    return _ready(given or {}, _CAPACITY)


def _ready(given: Mapping[str, Any], known: Mapping[str, Callable[[str, Any], object]]) -> dict[str, object]:
    ready: dict[str, object] = {}
    for name, value in given.items():
        convert = known.get(name)
        if convert is None:
            if known is _OPTIONS and name in _REFUSED:
                _refuse(name, value)
                continue
            raise TypeError(f"unexpected keyword argument {name!r}")
        if value is not None and (value := convert(name, value)) is not None:
            ready[name] = value
    return ready


def _refuse(name: str, value: object) -> None:
    nothing, why = _REFUSED[name]
    if value != nothing:
        raise make("unsupported", f"{name} is not supported: {why}")


def _call(args: Args, given: CallOptions) -> tuple[list[str], dict[str, object]]:
    # A list is the usual thing, and asking for a PathLike takes longer than all the rest.
    words = [args] if type(args) is not list and isinstance(args, (str, bytes, os.PathLike)) else args
    argv = [_text(word) for word in words]
    if not given:
        return argv, {}
    shell, executable = given.pop("shell", False), given.pop("executable", None)
    close_fds = given.pop("close_fds", True)
    if shell:
        argv[:0] = ["/bin/sh", "-c"]
    options = _ready(given, _OPTIONS)
    if executable is not None and argv:
        if not shell:
            options["arg0"] = argv[0]
        argv[0] = os.fsdecode(executable)
    if not close_fds:
        options["inherit_fds"] = True
    return argv, options


def piped(args: Args, given: PopenOptions) -> tuple[list[str], dict[str, object]]:
    """Give the command and the options of a call whose ``PIPE`` is a pipe to the caller; ``given`` is used up."""
    streams = given.pop("stdin", None), given.pop("stdout", None), given.pop("stderr", None)
    argv, native = _call(args, given)
    _stdio(native, *streams, pipe=subprocess.PIPE)
    return argv, native


def captured(args: Args, fed: Any, text: Text | None, given: RunOptions) -> tuple[list[str], dict[str, object]]:
    """Give them for a call that is ``fed`` this input and whose ``PIPE`` is kept for its result."""
    if not given and fed is None:
        return _call(args, given)
    stdin, stdout, stderr = given.pop("stdin", None), given.pop("stdout", None), given.pop("stderr", None)
    given.pop("bufsize", None)  # output is read as it comes
    if fed is not None and stdin is not None:
        raise ValueError("stdin and input exclude each other")
    if given.pop("capture_output", False):
        if stdout is not None or stderr is not None:
            raise ValueError("stdout and stderr exclude capture_output")
        stdout = stderr = subprocess.PIPE
    argv, native = _call(args, given)
    if stdin == subprocess.PIPE:
        fed, stdin = b"", None
    _stdio(native, stdin, stdout, stderr, pipe=_CAPTURE)
    if fed is not None:
        native["stdin"] = data(text, fed)
    return argv, native


def _stdio(native: dict[str, object], stdin: File, stdout: File, stderr: File, *, pipe: int) -> None:
    if stdin is not None:
        native["stdin"] = _file(stdin)
    if stdout is not None:
        native["stdout"] = pipe if stdout == subprocess.PIPE else _file(stdout)
    if stderr is not None:
        native["stderr"] = pipe if stderr == subprocess.PIPE else _file(stderr)


def _file(file: int | HasFileno) -> int:
    return file if isinstance(file, int) else file.fileno()


class Text:
    """How bytes become text, and text bytes."""

    __slots__ = ("encoding", "errors")

    def __init__(self, encoding: str | None, errors: str | None) -> None:
        """Take what :class:`io.TextIOWrapper` takes."""
        if encoding is None:
            import locale

            encoding = locale.getpreferredencoding(False)
        self.encoding = encoding
        self.errors = errors or "strict"

    @classmethod
    def wanted(
        cls, text: bool | None, encoding: str | None, errors: str | None, universal_newlines: bool | None = None
    ) -> Text | None:
        """Make one if text is wanted rather than bytes."""
        if text is not None and universal_newlines is not None and bool(text) != bool(universal_newlines):
            raise subprocess.SubprocessError("text and universal_newlines differ: give one of them")
        return cls(encoding, errors) if text or encoding or errors or universal_newlines else None

    def encode(self, text: str) -> bytes:
        """Make bytes for standard input."""
        return text.encode(self.encoding, self.errors)

    def decode(self, data: bytes, cut_at: int | None = None) -> str:
        """Make text of output; where something was left out a character may be torn."""
        errors = self.errors if cut_at is None or self.errors != "strict" else "replace"
        return data.decode(self.encoding, errors).replace("\r\n", "\n").replace("\r", "\n")


def data(text: Text | None, given: Any) -> bytes:
    """Make bytes of ``input``."""
    return text.encode(given) if text is not None and isinstance(given, str) else bytes(memoryview(given))
