"""What the documents say exists: commands with their options, modules, targets, files, headings, rooms.

Each block is run by tests/e2e/test_docs.py, or says why not; what is checked here is cheap, and holds for all of them.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import runpy
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from smartbatch.cli import app

from bench.figures import measure
from tests import documents
from tests.documents import ROOT, SHELL, SHOWN, Block

PAGES = documents.pages()
CODE = documents.code_blocks()
PYTHONS = {"python", "python3", "bench/.venv/bin/python", ".venv/bin/python"}
OTHERS = {"--add-opens"}
"""Options of programs that are not ours, named alone."""
_OPTION = re.compile(r"--[a-z][a-z0-9-]*")
_MAKE_VARIABLE = re.compile(r"[A-Z_]+=.*")


# What is in a block


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language_and_why_it_is_not_run(page: str) -> None:
    for block in documents.blocks(page):
        assert block.is_code or block.language in SHOWN, f"{block}: say its language, one of sh, python or {SHOWN}"
        assert block.not_run is None or (block.is_code and len(block.not_run) > 10), f"{block}: why is it not run?"


@pytest.mark.parametrize("page", PAGES)
def test_every_marker_stands_before_a_block(page: str) -> None:
    markers = re.findall(r"^<!-- not run:", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(markers) == sum(block.not_run is not None for block in documents.blocks(page))


@pytest.mark.parametrize("block", [block for block in CODE if block.language == "python"], ids=str)
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


# Commands


def parse(arguments: list[str]) -> None:
    """Parse a `smartbatch` command line as the command would, required arguments and types included, and run nothing.

    Raises:
        AssertionError: it is wrong.
    """
    group: Any = typer.main.get_command(app)
    try:
        context = group.make_context("smartbatch", list(arguments))
        command, rest = group, [*context._protected_args, *context.args]
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, rest)
            context = command.make_context(name, rest, parent=context)
            if hasattr(command, "resolve_command"):
                rest = [*context._protected_args, *context.args]
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None and getattr(error, "exit_code", 1) == 0:
            return  # --help, --version
        raise AssertionError(f"smartbatch {' '.join(arguments)}: {shown() if shown else error!r}") from error


class _Parsed(Exception):
    """The module's command line was taken."""


def parse_module(monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str]) -> None:
    """Parse `python -m module arguments` by the module's own parser, and run nothing.

    Raises:
        AssertionError: the module is not there, or does not take the arguments.
    """
    taken = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        taken(parser, args, namespace)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    # A module that tests have imported would be run a second time, which runpy warns of.
    monkeypatch.delitem(sys.modules, module, raising=False)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except _Parsed:
        return
    except SystemExit as error:
        raise AssertionError(f"python -m {module} {' '.join(arguments)}: exit status {error.code}") from error
    raise AssertionError(f"python -m {module} reads no arguments")


def targets() -> set[str]:
    """Those of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One simple command, as far as it is ours."""
    program, arguments = words[0], words[1:]
    if "/" in program and not program.startswith((".venv", "bench/.venv")):
        assert (ROOT / program).exists(), f"{program} is not there"
    if Path(program).name == "smartbatch":
        parse(arguments)
    elif program == "./archive.sh":
        parse(["archive", *arguments])
    elif program == "make":
        names = {word for word in arguments if not _MAKE_VARIABLE.fullmatch(word)}
        assert names <= targets(), f"the Makefile has no {sorted(names - targets())}"
    elif program in PYTHONS and arguments[:1] == ["-m"]:
        module, rest = arguments[1], arguments[2:]
        if module in ("smartbatch", "smartbatch.cli", "loadtest.cli"):
            parse(rest or ["--help"])
        elif module.partition(".")[0] in ("bench", "fuzz"):
            parse_module(monkeypatch, module, rest)
    elif program in PYTHONS and arguments and arguments[0].endswith(".py"):
        assert (ROOT / arguments[0]).exists(), f"{arguments[0]} is not there"
    elif program == "locust":
        for file in arguments[arguments.index("-f") + 1].split(","):
            assert (ROOT / file).exists(), f"{file} is not there"
    elif Path(program).name == "pytest":
        for path in (word for word in arguments if word.startswith("tests")):
            assert (ROOT / path).exists(), f"{path} is not there"


@pytest.mark.parametrize("block", [block for block in CODE if block.language in SHELL], ids=str)
def test_commands_in_blocks_exist_and_take_these_arguments(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in documents.commands(block.text):
        check(words, monkeypatch)


def mentioned(page: str) -> Iterator[tuple[str, list[str]]]:
    """Where, and the words of each command that stands in the text: one with more than its name."""
    for line, text in documents.inline_code(page):
        plain = text.replace("[", "").replace("]", "").removesuffix("…").removesuffix("-m")
        if re.match(r"(smartbatch|make|python|locust|[./\w]*\.venv/bin/\S+) \S", plain) and "<" not in plain:
            for words in documents.commands(plain):
                yield f"{page}:{line}", words


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist_and_take_these_arguments(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, words in mentioned(page):
        if Path(words[0]).name == "smartbatch" and not any(word.startswith("--") for word in words):
            found = options_of(words[1])
            assert found is not None, f"{where}: {' '.join(words)}"
            continue  # a name; what it needs is said elsewhere
        try:
            check(words, monkeypatch)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error


def options_of(name: str) -> set[str] | None:
    """The options of `smartbatch name`; None where there is no such command."""
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, name)
    if command is None:
        return None
    some = [command, *getattr(command, "commands", {}).values()]
    return {option for each in some for parameter in each.params for option in parameter.opts} | {"--help"}


def bench_options() -> set[str]:
    """Whatever an `add_argument` of the bench, the fuzzer or the examples names."""
    files = [file for folder in ("bench", "fuzz", "examples") for file in (ROOT / folder).rglob("*.py")]
    sources = (file.read_text(encoding="utf-8") for file in files if ".venv" not in file.parts)
    return {option for text in sources for option in re.findall(r'"(--[a-z][a-z-]*)"', text)}


@cache
def known_options() -> set[str]:
    """Whatever some command takes."""
    from smartbatch.cli import COMMANDS

    return {"--version"} | OTHERS | bench_options() | set().union(*(options_of(name) or () for name in COMMANDS))


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_are_options_of_something(page: str) -> None:
    for line, text in documents.inline_code(page):
        if text.startswith("--"):
            unknown = set(_OPTION.findall(text)) - known_options()
            assert not unknown, f"{page}:{line}: no command takes {unknown}"


def test_the_table_of_commands_names_commands_and_options_that_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs/cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 10
    for text in re.findall(r"`([^`]+)`", " ".join(rows)):
        found = options_of(text.split()[0])
        assert found is not None, f"there is no `{text}`"
        assert set(_OPTION.findall(text)) <= found, text


@pytest.mark.parametrize("step", measure.STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("quick", [False, True])
def test_every_step_of_the_figures_is_a_command_that_exists(
    step: measure.Step, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, *arguments = step.arguments(tmp_path, quick)
    check(["python", *arguments], monkeypatch)


# Links


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for token in documents.tokens(page):
        for child in token.children or ():
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if not target or re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in slugs(file), f"{page}: {target}: there are {sorted(slugs(file))}"


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_are_there(page: str) -> None:
    """Paths from the checkout's root; those within a plane, which architecture.md names by room, from that plane."""
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for line, text in documents.inline_code(page):
        path = text.removesuffix("/")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)+", path) or path.split("/")[0] not in tops - {
            ".venv",
            "model_store",
            "logs",
        }:
            continue
        if path.startswith(MADE):
            continue
        assert (ROOT / path).exists(), f"{page}:{line}: {path}"


MADE = ("bench/.venv", "bench/results", "loadtest/results")
"""What commands make."""


# Rooms


def packages() -> list[Path]:
    """Every package that ships or measures."""
    tops = [ROOT / name for name in ("handler/smartbatch_worker", "control/smartbatch", "loadtest", "bench", "fuzz")]
    return [file for top in tops for file in sorted(top.rglob("__init__.py")) if ".venv" not in file.parts]


def defined(package: Path) -> set[str]:
    """Modules, rooms and top-level names of a package."""
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    if (package / "__init__.py").exists():
        for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                places = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {place.id for place in places if isinstance(place, ast.Name)}
    return names


@pytest.mark.parametrize("file", packages(), ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_modules_in_a_docstring_are_there(file: Path) -> None:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    package = file.parent
    plane = next(parent for parent in package.parents if not (parent / "__init__.py").exists())
    top = plane / package.relative_to(plane).parts[0]
    known = defined(package) | defined(package.parent) | defined(top) | {top.name}
    if top.name == "smartbatch":
        known |= set(importlib.import_module("smartbatch").__all__)
    for name in re.findall(r"`([\w./]+)`", text):
        if "/" in name.removesuffix("/"):
            assert (top / name).exists() or (ROOT / name).exists(), f"{file}: {name}"
        elif "." in name and not name.endswith(".c"):
            module, _, attribute = name.rpartition(".")
            found = (package / module).exists() or (top / name.replace(".", "/")).with_suffix(".py").exists()
            assert found or hasattr(importlib.import_module(module), attribute), f"{file}: {name}"
        else:
            assert name.removesuffix("/") in known, f"{file}: {name}"


def test_the_data_planes_docstring_lists_its_rooms() -> None:
    package = ROOT / "handler" / "smartbatch_worker"
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert set(re.findall(r"`(\w+)`", text)) == defined(package) - {"__init__"}
