"""Events from lines of JSON; no kernel needed."""

from __future__ import annotations

import json
import pickle

import agentcg
import pytest
from agentcg import Dropped, OomKill, Unknown
from agentcg._native import read_event


def test_an_oom_kill() -> None:
    line = {
        "event": "OOM_KILL", "timestamp": 1, "pid": 2, "ppid": 1, "comm": "hog", "uid": 0, "cgroup_id": 7,
        "cgroup": "/c", "limit_cgroup": None, "limit_cgroup_id": 7, "limit_bytes": 4096,
    }  # fmt: skip
    event = read_event(json.dumps(line))
    assert isinstance(event, OomKill)
    assert (event.pid, event.limit_bytes, event.session) == (2, 4096, None)
    assert event.to_dict() == line


def test_what_a_later_version_adds_breaks_nothing() -> None:
    event = read_event('{"event":"DROPPED","count":1,"reason":"tea","later":[1]}')
    assert event == Dropped(1, "tea")
    line = '{"event":"TEA","sugar":1}'
    unknown = read_event(line)
    assert unknown == Unknown("TEA", line)
    assert unknown.to_dict() == {"event": "TEA", "sugar": 1}
    assert pickle.loads(pickle.dumps(unknown)) == unknown
    assert hash(unknown) is not None


def test_recorded_values() -> None:
    line = """ {"reason": "a\\u20ac\\n", "count": -1.5, "event": "DROPPED"}\r\n"""
    assert read_event(line) == Dropped(-1.5, "a\u20ac\n")  # type: ignore[arg-type]
    assert read_event('{"event":"DROPPED","count":18446744073709551615}') == Dropped(2**64 - 1, None)  # type: ignore[arg-type]
    lines = ['{"event":"HEADER","version":1}\n', "\n", " \r\n", '{"event":"DROPPED","count":1,"reason":"tea"}']
    assert list(agentcg.read_events(lines)) == [Dropped(1, "tea")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"event":"EXIT","pid":1', "EOF while parsing an object at line 1 column 23"),
        ('{"event":"EXIT"} {}', "trailing characters"),
        ('{"event":"EXIT",}', "trailing comma"),
        ('{"event":"DROPPED","count":0x1}', "column 29"),
        ('{"pid":1}', "missing field `event`"),
        ('{"event":1}', "expected a string"),
        ("[1]", "expected an object with a text `event`"),
        ("hello", "expected value"),
        ('{"event":"DROPPED","reason":"\ud800"}', "surrogates"),
    ],
)
def test_a_line_that_is_no_event(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(agentcg.read_events([line]))
