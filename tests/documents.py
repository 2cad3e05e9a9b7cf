"""The documents' code blocks, and what they ask of a shell: read from Markdown, so that tests can run and check them.

Every block says its language. Blocks of shell and Python are run by tests/e2e/test_docs.py unless a comment before
them says why not, which no reader sees:

    <!-- not run: why it cannot be, and what tests it instead -->

What TorchServe's own frontend cannot do (SMARTBATCH_FRONTEND=stock) says so likewise:

    <!-- mended -->
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
SHELL, PYTHON = {"sh", "bash", "console"}, {"python"}
SHOWN = {"text", "json", "yaml"}
"""Languages of blocks that show something and are not run."""
HISTORY = {"CHANGELOG.md"}
"""Documents whose commands and links were true once."""

_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.*?) -->", re.DOTALL)
_MENDED = re.compile(r"<!-- mended -->")
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_SEPARATOR = re.compile(r"[|&;]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None
    """Why it is not run, where it is not."""
    mended: bool
    """Whether it asks for what SmartBatch adds to TorchServe's frontend."""
    shown_after: Block | None
    """The block of JSON that shows its answer, if the next one does."""

    @property
    def is_code(self) -> bool:
        """Whether somebody is meant to run it."""
        return self.language in SHELL | PYTHON

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def pages() -> tuple[str, ...]:
    """Every Markdown file that git knows, but for history and what GitHub shows by itself."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return tuple(page for page in sorted(listed) if page not in HISTORY and not page.startswith(".github/"))


@cache
def tokens(page: str) -> tuple[Token, ...]:
    """A document's tokens."""
    return tuple(_MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8")))


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """A document's fenced blocks, in order."""
    found: list[Block] = []
    everything = tokens(page)
    for at, token in reversed(list(enumerate(everything))):
        if token.type != "fence":
            continue
        before = everything[at - 1] if at else None
        comment = before.content if before is not None and before.type == "html_block" else ""
        marker = _NOT_RUN.search(comment)
        answer = found[-1] if found and found[-1].language == "json" else None
        assert token.map is not None
        found.append(
            Block(
                page=page,
                line=token.map[0] + 1,
                language=token.info.strip(),
                text=token.content,
                not_run=" ".join(marker["reason"].split()) if marker else None,
                mended=_MENDED.search(comment) is not None,
                shown_after=answer,
            )
        )
    return tuple(reversed(found))


def code_blocks() -> list[Block]:
    """All blocks of shell and Python."""
    return [block for page in pages() for block in blocks(page) if block.is_code]


def inline_code(page: str) -> Iterator[tuple[int, str]]:
    """Line and text of everything between single backticks."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                assert token.map is not None
                yield token.map[0] + 1, child.content


def commands(script: str) -> Iterator[list[str]]:
    """The words of each simple command of a shell script, those within `$(…)` first; variables before it are left out.

    Redirections are left as words, and control flow too: good enough for what documents hold.
    """
    for line in script.replace("\\\n", " ").splitlines():
        for inner in _SUBSTITUTION.findall(line):
            yield from commands(inner)
        lexer = shlex.shlex(_SUBSTITUTION.sub("substituted", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if not _SEPARATOR.fullmatch(word):
                words.append(word)
                continue
            while words and _ASSIGNMENT.fullmatch(words[0]):
                del words[0]
            if words:
                yield words
            words = []
