"""The page of `agentcg report --html`, in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pypdf
import pytest
from agentcg import report

if TYPE_CHECKING:
    from pathlib import Path

NASTY = "echo '<script>alert(1)</script>' && echo \"$HOME\" $x_1^2$ & \x1b[31m ä 漢字"


@pytest.fixture
def log(repository: Path) -> list[str]:
    """What the library's own tests have written, and more."""
    lines = (repository / "docs/outcome.examples.jsonl").read_text(encoding="utf-8").strip().split("\n")
    nasty = json.loads(lines[0])
    nasty["command"] = ["sh", "-c", NASTY]
    nasty["session"] = "<b>&amp;</b>"
    return [*lines, json.dumps(nasty), "", "{", "[]", '{"not_a_call": "x", "command": ["bash"]}']


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(log: list[str]) -> None:
    page = report.render(log, "a <title>")
    assert "4 lines" not in page
    assert "3 lines of the log are no outcome" in page
    assert "<title>a &lt;title&gt;</title>" in page
    assert "<script" not in page
    assert html.escape("<b>&amp;</b>", quote=False) in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "@import" not in page
    assert len(page) < 2 << 20
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 6
    for picture in pictures:
        ET.fromstring(picture)
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(names)


def test_every_verdict_has_a_colour(repository: Path) -> None:
    schema = json.loads((repository / "docs/outcome.schema.json").read_text(encoding="utf-8"))
    assert set(report.COLOURS) == set(schema["$defs"]["outcome"]["properties"]["verdict"]["enum"])


def test_a_log_without_calls() -> None:
    assert "The log has no calls." in report.render([])
    assert "2 lines of the log" in report.render(["x", "{}"])


def test_rates_add_up_to_what_was_used() -> None:
    outcome: dict[str, Any] = {"usage": {"cpu_user_us": 3_000_000, "cpu_system_us": 0}, "command": ["x"]}
    outcome["timeline"] = [{"at_ms": 500, "cpu_us": 1_000_000}, {"at_ms": 1500, "cpu_us": 2_500_000}]
    call = report.Call(1.0, 3.0, outcome)
    for span in (3.0, 3.7, 100.0):
        rates = report._rates([call], span, "cpu_us", lambda c: c.cpu_us)  # noqa: SLF001
        assert sum(rates) * span / len(rates) == pytest.approx(3.0)


def test_many_calls(log: list[str]) -> None:
    page = report.render(log * 200)
    assert "longest of" in page
    assert len(page) < 4 << 20


def test_the_command_line(log: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text("\n".join(log), encoding="utf-8")
    command = [sys.executable, "-m", "agentcg", "report", str(tmp_path / "run.jsonl"), "--html"]
    subprocess.run([*command, tmp_path / "out.html"], check=True)
    assert "<svg" in (tmp_path / "out.html").read_text(encoding="utf-8")
    failed = subprocess.run([*command, "/no/such/out.html"], check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "/no/such/out.html" in failed.stderr
    table = subprocess.run(command[:-1], check=True, capture_output=True, text=True)
    assert "VERDICTS" in table.stdout


in_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs chromium; scripts/setup.sh installs it"
)


def chromium(page: str, directory: Path, *options: str) -> str:
    (directory / "page.html").write_text(page, encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *options]
    command += [f"--user-data-dir={directory / 'profile'}", (directory / "page.html").as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@in_chromium
@pytest.mark.parametrize(("width", "shown"), [(390, "narrow"), (1200, "wide")])
def test_in_a_browser(log: list[str], tmp_path: Path, width: int, shown: str) -> None:
    probe = """<script>
      const shown = [...document.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width > 0);
      document.title = JSON.stringify({
        overflow: document.documentElement.scrollWidth - innerWidth,
        shown: [...new Set(shown.map((svg) => svg.parentElement.className))],
        pictures: shown.length,
        smallest: Math.min(...shown.flatMap((svg) => [...svg.querySelectorAll("text")]
          .map((text) => text.getBoundingClientRect().height).filter((height) => height > 0))),
      });
    </script>"""
    page = chromium(report.render(log) + probe, tmp_path, "--dump-dom", f"--window-size={width},900")
    found = re.search(r"<title>(.*?)</title>", page)
    assert found is not None
    seen = json.loads(html.unescape(found.group(1)))
    assert seen["overflow"] <= 0
    assert (seen["shown"], seen["pictures"]) == ([shown], 3)
    assert seen["smallest"] >= 7  # px: what is smaller cannot be read


@in_chromium
def test_on_paper(log: list[str], tmp_path: Path) -> None:
    chromium(report.render(log), tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    pages = pypdf.PdfReader(tmp_path / "page.pdf").pages
    texts = [page.extract_text() for page in pages]
    # A heading stands above what it is of, and the legend is whole.
    for heading, first in [("Sessions over time", "memory"), ("Calls", "0 ms"), ("Where the time went", "0 ms")]:
        assert any(re.search(rf"^{heading}$.*^{first}", text, re.DOTALL | re.MULTILINE) for text in texts), heading
    legend = re.findall(r"[a-z_]+ \(\d+\)", next(text for text in texts if "completed (" in text))
    verdicts = {json.loads(line)["verdict"] for line in log if '"verdict"' in line}
    assert {name.split()[0] for name in legend} == verdicts
    # The pictures for wide windows, in colour.
    assert any("0 ms 2.0 s 4.0 s 6.0 s 8.0 s 10.0 s" in text for text in texts)
    # A content is falsy.
    drawn = b"".join(content.get_data() for page in pages if (content := page.get_contents()) is not None)
    fills = re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg", drawn)
    filled = {tuple(round(float(part) * 255) for part in fill) for fill in fills}
    assert {tuple(bytes.fromhex(report.COLOURS[verdict][1:])) for verdict in verdicts} <= filled
    # Nothing is cut off.
    for page in pages:
        at: list[float] = []

        def see(text: str, cm: list[float], tm: list[float], *_: object, at: list[float] = at) -> None:
            if text.strip():
                at.append(tm[4] * cm[0] + cm[4])

        page.extract_text(visitor_text=see)
        assert at == [] or (min(at) >= 0 and max(at) < page.mediabox.width)
