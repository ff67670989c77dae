"""Packages from the Debian archive, without touching the machine's own apt configuration.

apt runs with lists, cache and sources of its own below the cache directory. The archive's address is taken from
the machine's Debian entry, so a mirror, a proxy and credentials that are set up for apt serve the lab too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cache import LabError, cache_dir, locked

RELEASES = {
    *("stretch", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
}
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
ONE_LINE = re.compile(r"deb\s+(?:\[[^]]*]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+[^\s#]+)*)")


@dataclass(frozen=True)
class Entry:
    """One archive, as an apt source names it."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]

    def is_debian(self) -> bool:
        """Whether this is Debian's main archive: not an update service, not somebody else's repository."""
        return "main" in self.components and not RELEASES.isdisjoint(self.suites)


def parse_one_line(text: str) -> Iterator[Entry]:
    """The entries of a `sources.list`."""
    for line in text.splitlines():
        match = ONE_LINE.match(line.strip())
        if match:
            yield Entry(match["uri"], (match["suite"],), tuple(match["components"].split()))


def parse_deb822(text: str) -> Iterator[Entry]:
    """The entries of a `*.sources` file, one for each URI."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields = {
            name.lower(): value.split()
            for name, value in re.findall(r"^([\w-]+):((?:.*\n?)(?:[ \t]+.*\n?)*)", stanza, re.MULTILINE)
        }
        if fields.get("enabled") == ["no"] or "deb" not in fields.get("types", []):
            continue
        for uri in fields.get("uris", []):
            yield Entry(uri, tuple(fields.get("suites", [])), tuple(fields.get("components", [])))


def machine_entries(apt: Path = Path("/etc/apt")) -> Iterator[Entry]:
    """Every entry of the machine's apt configuration."""
    parts = apt / "sources.list.d"
    for path in sorted(parts.glob("*.sources")):
        yield from parse_deb822(path.read_text())
    for path in (apt / "sources.list", *sorted(parts.glob("*.list"))):
        if path.exists():
            yield from parse_one_line(path.read_text())


def mirror(entries: Iterable[Entry]) -> str:
    """The base address of the Debian archive."""
    own = os.environ.get("AGENTCG_DEBIAN_MIRROR")
    if own:
        return own
    for entry in entries:
        if entry.is_debian():
            return entry.uri
    raise LabError(
        "no Debian archive in /etc/apt: set AGENTCG_DEBIAN_MIRROR to the base address of one (the URI of a deb line)"
    )


class Archive:
    """One suite of the Debian archive."""

    def __init__(self, suite: str) -> None:
        """Nothing is read or fetched yet."""
        self.suite = suite
        self._root = cache_dir() / "apt" / suite
        self._fresh = False

    def names(self) -> list[str]:
        """The names of all kernel packages in the suite."""
        self._update()
        return self._apt("apt-cache", "pkgnames", "linux-").split()

    def unpack(self, package: str, directory: Path) -> None:
        """Fetch one package, which apt checks against the signed index, and unpack it; nothing gets installed."""
        self._update()
        self._apt("apt-get", "download", package, cwd=directory)
        for deb in directory.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, directory], check=True)
            deb.unlink()

    def _update(self) -> None:
        if self._fresh:
            return
        keyring = next((path for path in KEYRINGS if path.exists()), None)
        if keyring is None:
            raise LabError("no Debian archive keyring: install the package debian-archive-keyring")
        with locked(self._root):
            for directory in ("state/lists/partial", "cache/archives/partial"):
                (self._root / directory).mkdir(parents=True, exist_ok=True)
            source = f"deb [arch=amd64 signed-by={keyring}] {mirror(machine_entries())} {self.suite} main\n"
            (self._root / "sources.list").write_text(source)
            self._apt("apt-get", "--error-on=any", "update")
        self._fresh = True

    def _apt(self, program: str, *args: str, cwd: Path | None = None) -> str:
        if not shutil.which(program):
            raise LabError(f"{program} not found: kernels come as Debian packages; KERNEL can also be a kernel image")
        options = {
            "Dir::Etc::sourcelist": self._root / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": self._root / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self._root / "cache",
            "APT::Architecture": "amd64",
            # Changing to the user _apt fails where the cache is private, as /root is.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        command = [program, "-q", *(f"-o{key}={value}" for key, value in options.items()), *args]
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"{program} {' '.join(args)} failed for {self.suite}:\n{done.stderr.strip()}")
        return done.stdout
