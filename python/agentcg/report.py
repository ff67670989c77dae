"""Pictures of a log of outcomes: one page of HTML that needs nothing else.

``agentcg report run.jsonl --html out.html``, or :func:`write`. The log is what ``AGENTCG_LOG`` or
:class:`agentcg.integrations.logs.JsonlObserver` has written. Calls with ``sample=`` have a time line; of the others the
average over their duration is drawn. It needs ``matplotlib`` (``pip install agentcg[report]``).
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ImportError as _missing:
    raise ImportError("agentcg.report needs matplotlib: pip install 'agentcg[report]'") from _missing

from agentcg._result import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from matplotlib.axes import Axes

COLOURS = {
    "completed": "#2e7d57",
    "failed": "#8a8f98",
    "signaled": "#a05195",
    "oom_killed": "#c0392b",
    "timed_out": "#d9822b",
    "pids_exhausted": "#2f4b7c",
    "cancelled": "#5b7fa6",
    "spawn_failed": "#555b66",
}
_OTHER = "#000000"
_BY_ITSELF = {verdict.value for verdict in Verdict if verdict.by_itself}
_LINES = ["#2b6cb0", "#d9822b", "#2e7d57", "#8e44ad", "#c0392b", "#0f8b8d", "#a0522d", "#6b7280"]
_BINS = 240
"""So many moments are drawn."""
_BARS = 60
"""So many calls have a bar; the longest ones when there are more."""
_COMMANDS = 15
_WIDE, _NARROW = 10.0, 4.2
"""Inches; a phone gets pictures of its own, for in a small copy of a wide one nothing can be read."""
_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "agentcg",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa1ab",
    "axes.labelcolor": "#3c4250",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8ec",
    "xtick.color": "#3c4250",
    "ytick.color": "#3c4250",
    "legend.frameon": False,
}


@dataclass
class Call:
    """One call, on the time axis of the log."""

    start: float
    """Seconds since the first call began."""
    end: float
    outcome: dict[str, Any]

    @property
    def command(self) -> str:
        """The command line, for reading."""
        words = self.outcome["command"]
        # What a shell was asked for says more than the shell.
        if len(words) == 3 and words[1] in {"-c", "-lc"}:
            return str(words[2])
        return " ".join(words)

    def usage(self, name: str) -> int:
        """One number of the usage; 0 when the kernel did not give it."""
        return int(self.outcome.get("usage", {}).get(name) or 0)

    @property
    def by_itself(self) -> bool:
        """Nothing else ended it; a verdict that we do not know is no such end."""
        return self.outcome["verdict"] in _BY_ITSELF

    @property
    def peak(self) -> int:
        """The most memory; without a memory controller that of its largest process; 0: not known."""
        return self.usage("memory_peak_bytes") or self.usage("max_rss_bytes")

    @property
    def cpu_us(self) -> int:
        """CPU time in all."""
        return self.usage("cpu_user_us") + self.usage("cpu_system_us")


@dataclass
class Log:
    """What was read."""

    calls: list[Call] = field(default_factory=list)
    broken: int = 0
    """Lines that are no outcome."""
    began: float = 0.0
    """Unix time of the first start."""

    @classmethod
    def read(cls, lines: Iterable[str]) -> Log:
        """Read lines of JSON; what is no outcome is counted."""
        log, found = cls(), []
        for line in lines:
            if not line.strip():
                continue
            try:
                outcome = json.loads(line)
                start = datetime.fromisoformat(outcome["started_at"].replace("Z", "+00:00")).timestamp()
                found.append((start, outcome["duration_ms"] / 1000, outcome))
                outcome["session"], outcome["verdict"], outcome["command"][0]
            except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                log.broken += 1
        found.sort(key=lambda call: call[0])
        log.began = found[0][0] if found else 0.0
        log.calls = [Call(start - log.began, start - log.began + took, outcome) for start, took, outcome in found]
        return log

    @property
    def span(self) -> float:
        """Seconds from the first start to the last end; more than 0."""
        return max([call.end for call in self.calls] + [0.001])

    def sessions(self) -> dict[str, list[Call]]:
        """The calls by session, in the order of their beginning."""
        sessions: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            sessions[call.outcome["session"]].append(call)
        return sessions


def _samples(call: Call, name: str) -> list[tuple[float, float]]:
    timeline = call.outcome.get("timeline", [])
    return [(call.start + s["at_ms"] / 1000, s[name]) for s in timeline if s.get(name) is not None]


def _levels(calls: list[Call], span: float) -> list[float]:
    """The memory at each moment: the last samples, or the peaks of calls without."""
    totals = [0.0] * _BINS
    for call in calls:
        samples = _samples(call, "memory_bytes") or [(call.start, call.peak)]
        for n in range(int(call.start / span * _BINS), min(int(call.end / span * _BINS), _BINS - 1) + 1):
            before = [value for when, value in samples if when <= (n + 1) * span / _BINS]
            totals[n] += before[-1] if before else samples[0][1]
    return totals


def _rates(calls: list[Call], span: float, name: str, total: Callable[[Call], float]) -> list[float]:
    """How fast a counter in µs rises between the moments, in seconds a second."""
    totals, width = [0.0] * _BINS, span / _BINS
    for call in calls:
        end = max(call.end, call.start + 0.001)
        points = [(call.start, 0.0), *_samples(call, name), (end, total(call))]
        for (t0, v0), (t1, v1) in zip(points, points[1:]):
            rate = max(v1 - v0, 0.0) / max(t1 - t0, 1e-9)
            for n in range(int(t0 / width), min(int(t1 / width), _BINS - 1) + 1):
                inside = min(t1, (n + 1) * width) - max(t0, n * width)
                totals[n] += rate * max(inside, 0.0) / width / 1e6
    return totals


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{rest:02}s"


def _short(text: str, length: int) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _ticks(show: Callable[[float], str]) -> Callable[[float, float], str]:
    return lambda value, _: show(value)


def _svg(figure: Figure, title: str) -> str:
    """Make an inline SVG that scales with the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Title": title})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(title)}">{rest}'


def _both(title: str, draw: Callable[[float], Figure]) -> str:
    """Draw it for a wide and for a narrow page, of which one is shown."""
    with mpl.rc_context(_RC):
        pictures = {"wide": _svg(draw(_WIDE), title), "narrow": _svg(draw(_NARROW), title)}
    return "".join(
        f'<div class="{name}">{_unique(picture, name + "-" + title.replace(" ", "-") + "-")}</div>'
        for name, picture in pictures.items()
    )


def _unique(svg: str, prefix: str) -> str:
    """Make the names inside a picture its own."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(xlink:href|href)="#', rf'\1="#{prefix}', svg)
    return svg.replace("url(#", f"url(#{prefix}")


def _time_axis(axis: Axes, ticks: int) -> None:
    """Show time along the bottom, with at most so many marks."""
    axis.xaxis.set_major_formatter(_ticks(_time))
    axis.locator_params(axis="x", nbins=ticks)


def _rows_of_bars(axis: Axes, rows: int) -> None:
    """Number the rows from the top, and show nothing beside them."""
    axis.set_ylim(rows - 0.4, -0.6)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", visible=False)


def _timeline(log: Log, width: float) -> Figure:
    sessions = log.sessions()

    def cpu(calls: list[Call]) -> list[float]:
        return _rates(calls, log.span, "cpu_us", lambda c: c.cpu_us)

    def stalls(calls: list[Call]) -> list[float]:
        return _rates(
            calls,
            log.span,
            "stall_us",
            lambda c: c.usage("memory_stall_us") + c.usage("cpu_stall_us") + c.usage("io_stall_us"),
        )

    exact = any(call.usage("memory_peak_bytes") for call in log.calls)
    rows: list[tuple[str, Callable[[list[Call]], list[float]], Callable[[float], str]]] = [
        ("memory" if exact else "memory (largest process of each call)", lambda c: _levels(c, log.span), _size),
        ("CPUs in use", cpu, lambda v: f"{v:.3g}"),
        ("stalled for memory, CPU or I/O", stalls, lambda v: f"{v * 100:.0f} %"),
    ]
    figure = Figure(figsize=(width, 6.4 if width == _WIDE else 7.2))
    axes: list[Axes] = list(figure.subplots(len(rows), 1, sharex=True))
    moments = [(n + 0.5) * log.span / _BINS for n in range(_BINS)]
    for axis, (label, values, show) in zip(axes, rows):
        for n, calls in enumerate(sessions.values()):
            series = values(calls)
            colour = _LINES[n % len(_LINES)]
            axis.fill_between(moments, series, step="mid", alpha=0.15, color=colour, linewidth=0)
            axis.step(moments, series, where="mid", color=colour, linewidth=1.3)
        axis.set_title(label, loc="left", fontsize=10, color="#1f2430")
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(_ticks(show))
        axis.margins(x=0)
    _time_axis(axes[-1], 8 if width == _WIDE else 4)
    figure.subplots_adjust(hspace=0.35)
    return figure


def _bars(log: Log, width: float) -> Figure:
    longest = sorted(log.calls, key=lambda c: c.start - c.end)[:_BARS]
    calls = sorted(longest, key=lambda c: c.start)
    figure = Figure(figsize=(width, 0.7 + 0.2 * max(len(calls), 3)))
    axis = figure.subplots()
    least = log.span / 250
    for row, call in enumerate(calls):
        verdict = call.outcome["verdict"]
        axis.barh(
            row, max(call.end - call.start, least), left=call.start, height=0.72, color=COLOURS.get(verdict, _OTHER)
        )
        label = _short(call.command, 60 if width == _WIDE else 26)
        middle = call.start > log.span / 2
        axis.annotate(
            label,
            (call.start if middle else max(call.end, call.start + least), row),
            xytext=(-3 if middle else 3, 0),
            textcoords="offset points",
            ha="right" if middle else "left",
            va="center",
            fontsize=7.5,
            color="#1f2430",
        )
    axis.set_xlim(0, log.span * 1.02)
    _rows_of_bars(axis, len(calls))
    _time_axis(axis, 8 if width == _WIDE else 4)
    return figure


def _commands(log: Log) -> list[tuple[str, list[Call]]]:
    by: dict[str, list[Call]] = defaultdict(list)
    for call in log.calls:
        by[_short(call.command, 60)].append(call)
    return sorted(by.items(), key=lambda item: -sum(c.end - c.start for c in item[1]))[:_COMMANDS]


def _top(log: Log, width: float) -> Figure:
    commands = _commands(log)
    figure = Figure(figsize=(width, 0.7 + 0.34 * max(len(commands), 2)))
    axis = figure.subplots()
    for row, (command, calls) in enumerate(commands):
        left = 0.0
        for verdict, colour in COLOURS.items():
            took = sum(c.end - c.start for c in calls if c.outcome["verdict"] == verdict)
            axis.barh(row + 0.16, took, left=left, height=0.42, color=colour)
            left += took
        label = f"{_short(command, 70 if width == _WIDE else 34)}  ({len(calls)} x, {_time(left)})"
        axis.annotate(label, (0, row - 0.24), xytext=(1, 0), textcoords="offset points", fontsize=8, va="center")
    _rows_of_bars(axis, len(commands))
    _time_axis(axis, 6 if width == _WIDE else 3)
    return figure


_STYLE = """
:root { color-scheme: light; --line: #e1e4e9; --soft: #5d6470; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: #fff; color: #1f2430;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .7rem; }
.tiles b { display: block; font-size: 1.25rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; padding: 0; list-style: none; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.advice { border-left: 4px solid; padding: .3rem .8rem; margin: .7rem 0; break-inside: avoid; }
@media (max-width: 40rem) {
  .wide { display: none; } .narrow { display: block; }
  .less { display: none; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11px; } h2 { break-after: avoid; }
  .wide { display: block; } .narrow { display: none; }
  .tiles { grid-template-columns: repeat(6, 1fr); }
  section, table, .tiles { break-inside: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def _tiles(log: Log) -> str:
    ended = sum(not call.by_itself for call in log.calls)
    peak = max((call.peak for call in log.calls), default=0)
    tiles = [
        (str(len(log.calls)), "calls"),
        (str(len(log.sessions())), "sessions"),
        (_time(log.span), "from first to last"),
        (_time(sum(call.cpu_us for call in log.calls) / 1e6), "CPU time"),
        (_size(peak) if peak else "not known", "largest peak of a call"),
        (str(ended), "ended by something else"),
    ]
    return '<div class="tiles">' + "".join(f"<div><b>{v}</b>{label}</div>" for v, label in tiles) + "</div>"


def _legend(items: Iterable[tuple[str, str]]) -> str:
    """Say what the colours mean."""
    shown = "".join(f'<li><i style="background:{colour}"></i>{html.escape(text)}</li>' for colour, text in items)
    return f'<ul class="legend">{shown}</ul>'


def _sessions(log: Log) -> str:
    names = [_short(name, 40) for name in log.sessions()]
    return _legend((_LINES[n % len(_LINES)], name) for n, name in enumerate(names[:24]))


def _verdicts(log: Log) -> str:
    verdicts = Counter(call.outcome["verdict"] for call in log.calls)
    return _legend((COLOURS.get(v, _OTHER), f"{v} ({n})") for v, n in verdicts.most_common())


def _table(log: Log) -> str:
    rows = []
    for command, calls in _commands(log):
        took = sorted(call.end - call.start for call in calls)
        peak = max(call.peak for call in calls)
        bad = sum(not call.by_itself for call in calls)
        rows.append(
            f"<tr><td><code>{html.escape(command)}</code></td><td>{len(calls)}</td>"
            f"<td>{_time(took[len(took) // 2])}</td><td class=less>{_time(sum(c.cpu_us for c in calls) / 1e6)}</td>"
            f"<td>{_size(peak) if peak else '?'}</td><td class=less>{bad or ''}</td></tr>"
        )
    head = (
        "<tr><th>command</th><th>calls</th><th>median</th><th class=less>CPU</th><th>peak</th>"
        "<th class=less>ended by<br>something else</th></tr>"
    )
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _advice(log: Log) -> str:
    found = [call for call in log.calls if call.outcome.get("advice")][:20]
    return "".join(
        f'<div class="advice" style="border-color:{COLOURS.get(c.outcome["verdict"], _OTHER)}">'
        f"<code>{html.escape(_short(c.command, 120))}</code> "
        f'<span class="soft">{html.escape(c.outcome["verdict"])}, after {_time(c.end - c.start)}</span>'
        f"<br>{html.escape(c.outcome['advice'])}</div>"
        for c in found
    )


def render(lines: Iterable[str], title: str = "agentcg report") -> str:
    """Make the page of lines of JSON; text is from the log and is escaped."""
    log = Log.read(lines)
    began = datetime.fromtimestamp(log.began, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    if log.broken:
        parts.append(f"<p class=soft>{log.broken} lines of the log are no outcome and are left out.</p>")
    if not log.calls:
        return "".join([*parts, "<p>The log has no calls.</p></body></html>"])
    parts.append(f"<p class=soft>{began}</p>{_tiles(log)}")
    pictures = _both("time line", lambda width: _timeline(log, width))
    parts.append(f"<section><h2>Sessions over time</h2>{_sessions(log)}{pictures}</section>")
    if not any(call.outcome.get("timeline") for call in log.calls):
        parts.append("<p class=soft>No call has samples (<code>sample=</code>): shown are its peak and averages.</p>")
    more = f" <span class=soft>(the {_BARS} longest of {len(log.calls)})</span>" if len(log.calls) > _BARS else ""
    pictures = _both("calls", lambda width: _bars(log, width))
    parts.append(f"<section><h2>Calls{more}</h2>{_verdicts(log)}{pictures}</section>")
    pictures = _both("commands", lambda width: _top(log, width))
    parts.append(f"<section><h2>Where the time went</h2>{pictures}</section>{_table(log)}")
    advice = _advice(log)
    if advice:
        parts.append(f"<h2>Advice</h2>{advice}")
    return "".join([*parts, "</body></html>"])


def write(log: str | os.PathLike[str], page: str | os.PathLike[str], title: str | None = None) -> None:
    """Make the page of a log."""
    with Path(log).open(encoding="utf-8", errors="replace") as lines:
        text = render(lines, title or f"agentcg: {Path(log).name}")
    Path(page).write_text(text, encoding="utf-8")


def main(args: list[str] | None = None) -> int:
    """``agentcg report LOG --html PAGE``; returns the exit status."""
    parser = argparse.ArgumentParser("agentcg report", description="Make a page with pictures of a log of outcomes.")
    parser.add_argument("log", help="the log, as AGENTCG_LOG has it")
    parser.add_argument("--html", required=True, metavar="PAGE", help="the page to write")
    parser.add_argument("--title", help="its title")
    options = parser.parse_args(args)
    try:
        write(options.log, options.html, options.title)
    except OSError as e:
        print(f"agentcg: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
