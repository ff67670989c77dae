"""The cache directory: what was downloaded or built once and can be made again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


class LabError(Exception):
    """The lab cannot do what was asked; the message names the thing and the way out."""


def cache_dir() -> Path:
    """`$AGENTCG_CACHE`, or `agentcg` in the user's cache directory; the same rule as scripts/setup.sh."""
    own = os.environ.get("AGENTCG_CACHE")
    if own:
        return Path(own).absolute()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user).absolute() if user else Path.home() / ".cache") / "agentcg"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, so that two runs do not make it at the same time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise LabError(f"cannot write to the cache: {error}; set AGENTCG_CACHE to another directory") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes `path` when the block succeeds and goes away when it does not."""
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
