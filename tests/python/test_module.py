from __future__ import annotations

import os
import pydoc
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import agentcg
import pytest
from conftest import FOUND


def test_everything_public_is_there() -> None:
    for name in agentcg.__all__:
        assert getattr(agentcg, name)
    assert agentcg.__version__ == version("agentcg")


def test_capabilities_are_the_doctors() -> None:
    found = agentcg.capabilities()
    assert found.kernel == os.uname().release
    cgroup2 = found.get("cgroup2")
    assert cgroup2 is not None
    assert found.to_dict()["capabilities"][0] == {"name": "cgroup2", "supported": True, "detail": cgroup2.detail}
    assert found.get("no such") is None
    assert not found.supports("no such")
    assert found.backends.events == found.supports("process_events")
    missing = [c for c in found.capabilities if not c.supported]
    assert all(c.detail for c in missing)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give privileges away")
def test_import_without_privileges() -> None:
    program = """
import agentcg
assert not agentcg.capabilities().supports("process_events")
try:
    agentcg.Runtime()
except agentcg.PermissionDeniedError as e:
    assert isinstance(e, PermissionError) and e.kind == "permission_denied" and e.errno in (1, 13), repr(e)
    assert "root" in e.help and str(e).endswith(e.help), repr(e)
else:
    raise SystemExit("a runtime without privileges")
"""
    package = Path(agentcg.__file__).parent
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]

    def reachable(path: Path) -> bool:
        return subprocess.run([*nobody, "test", "-x", path], check=False).returncode == 0

    # The stable ABI: any Python will do, and that of the tests may lie in root's home.
    pythons = [p for p in (Path(sys.executable).resolve(), Path("/usr/bin/python3")) if reachable(p)]
    if not pythons or not reachable(package):
        pytest.skip("only root can get to Python or the package")
    subprocess.run([*nobody, pythons[0], "-c", program], check=True, cwd="/", env={"PYTHONPATH": str(package.parent)})


def test_import_without_bpf_and_cgroups() -> None:
    """Nothing is probed at import: not even /sys is needed."""
    script = "import agentcg, sys; sys.exit(not agentcg.__version__)"
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys && exec "$@"', "sh"]
    if os.geteuid() != 0:
        pytest.skip("needs root, to hide /sys")
    subprocess.run([*hidden, sys.executable, "-c", script], check=True)


def test_errors_are_typed(tmp_path: Path) -> None:
    if not FOUND.supports("cgroup_create"):
        pytest.skip("needs root and cgroup v2 (capability cgroup_create)")
    with pytest.raises(agentcg.LimitError, match="not a cgroup") as raised:
        agentcg.Runtime(tmp_path / "root")
    assert isinstance(raised.value, ValueError)
    assert raised.value.kind == "invalid_input"
    assert raised.value.path == tmp_path
    with pytest.raises(agentcg.AgentcgError) as missing:
        agentcg.Runtime("/no/such/cgroup")
    assert missing.value.kind == "not_found"
    assert missing.value.errno == 2


def test_help_says_what_run_takes() -> None:
    text = pydoc.render_doc(agentcg.Session.run, renderer=pydoc.TextDoc())
    for option in agentcg.RunOptions.__annotations__:
        assert f"``{option}``" in text
    assert "seconds" in text
    assert set(agentcg.__all__) <= set(dir(agentcg))
