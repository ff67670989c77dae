"""Makes the manual pages of section 3 from the comments of agentcg.h: man.py HEADER DIRECTORY VERSION.

A page for each function and each type, and libagentcg(3), which lists them.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

MEMBER = re.compile(r"  /\*\*\n(?P<text>.*?)\*/\n  (?P<code>[^\n]*?)[,;]?\n", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """A function or a type, with its comment."""

    name: str
    text: str
    code: str

    @property
    def is_function(self) -> bool:
        """Whether it is one."""
        return not self.code.startswith("typedef")

    @property
    def mentions(self) -> set[str]:
        """The functions and types that it speaks of."""
        return set(re.findall(r"\bagentcg_\w+", self.code + self.text))

    @property
    def summary(self) -> str:
        """The first sentence of its comment."""
        return re.split(r"(?<=[.:;])\s", " ".join(self.text.split()))[0].rstrip(".:;")


def plain(comment: str) -> str:
    """A comment without its stars."""
    lines = (re.sub(r"^\s*\* ?", "", line) for line in comment.splitlines())
    return "\n".join(lines).strip()


def items(header: str) -> list[Item]:
    """The functions and types of a header."""
    # A function with a long list of arguments, or a struct, ends at its own semicolon.
    found = []
    for match in re.finditer(r"^/\*\*\n(.*?)^ \*/\n", header, re.DOTALL | re.MULTILINE):
        rest = header[match.end() :]
        if rest.startswith("#define"):
            continue
        has_body = rest.startswith(("typedef struct {", "typedef enum {"))
        end = re.search(r"^\} \w+;$" if has_body else r";$", rest, re.MULTILINE)
        if end is None:
            raise ValueError(f"no end: {rest[:80]}")
        code = rest[: end.end()]
        name = re.search(r"(\w+)\)?;$" if code.startswith("typedef") else r"(\w+)\(", code)
        if code.startswith("typedef void (*"):
            name = re.search(r"\(\*(\w+)\)", code)
        if name is None:
            raise ValueError(f"no name: {code}")
        found.append(Item(name.group(1), plain(match.group(1)), code))
    return found


def escaped(text: str) -> str:
    """Text that troff shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def words(text: str) -> str:
    """Paragraphs with names in bold; each sentence as it comes."""
    paragraphs = re.split(r"\n\s*\n", text)
    formatted = (re.sub(r"`([^`]*)`", r"\\fB\1\\fP", escaped(" ".join(p.split()))) for p in paragraphs)
    return "\n.PP\n".join(formatted)


def listing(code: str) -> str:
    """Code as it is."""
    return f".nf\n{escaped(code)}\n.fi"


def page(item: Item, others: list[Item], version: str) -> str:
    """A page."""
    body, _, errors = item.text.partition("\nErrors")
    code = re.sub(r" *//.*", "", item.code)
    members = [] if item.is_function else list(MEMBER.finditer(code))
    if members:
        opening = code.splitlines()[0]
        names = "\n".join(f"    {m['code']}{',' if 'enum' in opening else ';'}" for m in members)
        code = f"{opening}\n{names}\n}} {item.name};"
    parts = [
        f'.TH {item.name} 3 "" "libagentcg {version}"',
        f".SH NAME\n{item.name} \\- {escaped(item.summary)}",
        ".SH SYNOPSIS\n" + listing(f"#include <agentcg.h>\n\n{code}"),
        ".SH DESCRIPTION\n" + words(body),
    ]
    parts += [f".TP\n.B {escaped(m['code'])}\n{words(plain(m['text']))}" for m in members]
    if errors:
        errors = errors.lstrip(":, ")
        parts.append(".SH ERRORS\n" + words(errors[0].upper() + errors[1:]))
    related = sorted(o.name for o in others if o != item and (o.name in item.mentions or item.name in o.mentions))
    parts.append(".SH SEE ALSO\n" + " ,\n".join(f".BR {name} (3)" for name in [*related, "libagentcg"]))
    return "\n".join(parts) + "\n"


def overview(header: str, all_items: list[Item], version: str) -> str:
    """libagentcg(3)."""
    intro = re.search(r"/\*\n(.*?)\*/", header, re.DOTALL)
    text = plain(intro.group(1)) if intro else ""
    text = re.sub(r"\n(?=- )", "\n\n", text.partition("SPDX")[0])
    parts = [
        f'.TH libagentcg 3 "" "libagentcg {version}"',
        ".SH NAME\nlibagentcg \\- control and measure what AI agents' tool calls take from a Linux machine",
        ".SH SYNOPSIS\n" + listing("#include <agentcg.h>\n\ncc program.c $(pkg-config --cflags --libs agentcg)"),
        ".SH DESCRIPTION\n" + words(text),
    ]
    for title, wanted in (("FUNCTIONS", True), ("TYPES", False)):
        parts.append(f".SH {title}")
        parts += [f".TP\n.BR {i.name} (3)\n{escaped(i.summary)}" for i in all_items if i.is_function is wanted]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write the pages."""
    header, directory, version = Path(sys.argv[1]).read_text(encoding="utf-8"), Path(sys.argv[2]), sys.argv[3]
    found = items(header)
    directory.mkdir(parents=True, exist_ok=True)
    for item in found:
        (directory / f"{item.name}.3").write_text(page(item, found, version), encoding="utf-8")
    (directory / "libagentcg.3").write_text(overview(header, found, version), encoding="utf-8")


if __name__ == "__main__":
    main()
