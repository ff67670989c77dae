"""docs/outcome.schema.json describes the outcomes that the library writes, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def validator(repository: Path) -> Draft202012Validator:
    schema = json.loads((repository / "docs/outcome.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def examples(repository: Path) -> list[dict[str, Any]]:
    """What the library's own tests have written there, one of every kind."""
    # Not splitlines: the text may hold what ends a line for Python only.
    lines = (repository / "docs/outcome.examples.jsonl").read_text().strip().split("\n")
    return [json.loads(line) for line in lines]


def test_every_example(validator: Draft202012Validator, examples: list[dict[str, Any]]) -> None:
    for example in examples:
        validator.validate(example)
    verdicts = validator.schema["$defs"]["outcome"]["properties"]["verdict"]["enum"]
    assert {example["verdict"] for example in examples} == set(verdicts)


def test_every_field_is_in_an_example(validator: Draft202012Validator, examples: list[dict[str, Any]]) -> None:
    definitions = validator.schema["$defs"]
    seen = {field for example in examples for field in example}
    assert seen == set(definitions["outcome"]["properties"])
    seen = {field for example in examples for field in example["usage"]}
    assert seen == set(definitions["usage"]["properties"])
    seen = {field for example in examples for field in example["cause"] or {}}
    assert seen == set(definitions["cause"]["properties"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 2},
        {"later": 1},
        {"verdict": "fine"},
        {"verdict": "oom_killed"},
        {"verdict": "spawn_failed"},
        {"exit_code": 1},
        {"signal": 9},
        {"exit_code": None, "signal": 0},
        {"error": "why"},
        {"core_dumped": True},
        {"queued_ms": 0},
        {"started_at": "yesterday"},
        {"usage": {"pids_peak": None}},
        {"unavailable": {"tea": "out"}},
        {"unavailable": {"pids_peak": ""}},
        {"suggestions": [{"action": "retry_with_hint"}]},
        {"suggestions": [{"action": "do_not_retry", "hint": "memory:1G"}]},
        {"cause": {"limit": "memory.max", "scope": "call", "victim": None}},
    ],
)
def test_what_is_wrong(validator: Draft202012Validator, examples: list[dict[str, Any]], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator.validate({**examples[0], **wrong})
