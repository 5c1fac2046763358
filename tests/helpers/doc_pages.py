"""The documentation's pages as tests see them: code blocks, code spans and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = "<!-- run -->"
FENCE = re.compile(r"^(```+)\s*([\w.-]*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block. run: whether the line above it is `<!-- run -->`."""

    page: str
    language: str
    text: str
    run: bool

    @property
    def commands(self) -> list[str]:
        """The shell commands of a bash block: continued lines joined, comments left out."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = (shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines())
        return [line for line in lines if line]


@dataclass(frozen=True)
class Page:
    """A Markdown file. name: its path in the repository."""

    name: str

    @cached_property
    def text(self) -> str:
        return (ROOT / self.name).read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(self.name, match[2], match[3], self.text[: match.start()].rstrip().endswith(RUN))
            for match in FENCE.finditer(self.text)
        ]

    @property
    def spans(self) -> list[str]:
        """Code within sentences."""
        return SPAN.findall(FENCE.sub("", self.text))

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures, those to other sites left out."""
        found = LINK.findall(FENCE.sub("", self.text))
        return [target for target in found if not re.match(r"[a-z]+:", target)]

    @property
    def code(self) -> list[str]:
        """Lines of code: each command of a bash block, each line of another block, each span."""
        lines = [
            line for block in self.blocks for line in (block.commands if block.language == "bash" else block.text.splitlines())
        ]
        return lines + self.spans


def pages() -> list[Page]:
    """README, CONTRIBUTING, then docs/ in the order of the navigation."""
    order = re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return [Page("README.md"), Page("CONTRIBUTING.md"), *(Page(f"docs/{name}") for name in order)]
