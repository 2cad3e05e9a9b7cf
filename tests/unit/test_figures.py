"""Figures in the documents: what stands between markers is what the committed data give, from one machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.figures import data, measure, render, tables, words
from bench.figures.__main__ import main

ROOT = Path(__file__).parents[2]
MACHINE = {"processor": "Intel(R) Thing", "cores": 2, "memory_gb": 4.0, "torch": "2", "instructions": "avx2"}
MACHINE_OF_LOAD = {
    "cpu": "Intel(R) Thing",
    "cores": 2,
    "memory_gib": 4.0,
    "cpu_features": ["avx2"],
    "packages": {"torch": "2"},
}
STRESS = {
    "machine": MACHINE_OF_LOAD,
    "settings": {"steps": [{"users": 8}, {"users": 200}], "formats": ["jpeg"]},
    "totals": {"requests": 9, "failures": 0, "rps": 3.25, "p50_s": 2.3, "p95_s": 4.4, "avg_batch_size": 23.94},
}
STUDY = {
    "machine": MACHINE_OF_LOAD,
    "settings": {"users": 64},
    "rows": [{"batch_size": 1, "rps": 34.51}, {"batch_size": 32, "rps": 52.2}],
}
CAPACITY = {
    "machine": MACHINE_OF_LOAD,
    "settings": {"slo_p95_ms": 500.0, "format": "jpeg"},
    "knee": {"knee": 40.91},
}
FORWARD = {
    "machine": MACHINE,
    "sizes": [1, 8],
    "rows": [
        {
            "backend": "winograd",
            "answers": [{"images_per_s": {"1": 44.4, "8": 104.0}, "max_abs_diff": 3e-6, "build_s": 4}],
        },
        {"backend": "onnxruntime", "answers": [{"skipped": "not installed"}]},
        {"backend": "eager", "answers": [{"images_per_s": {"1": 23.0, "8": 30.0}, "max_abs_diff": 0.0, "build_s": 0}]},
    ],
}


def test_the_documents_hold_what_the_committed_data_give() -> None:
    for path, text in render.texts(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: `python -m bench.figures --render` makes it anew"


@pytest.mark.parametrize(("page", "most"), [("README.md", 120), ("docs/performance.md", 100)])
def test_pages_stay_short_with_every_figure_measured(page: str, most: int) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = len(tables.FORWARDS) + 1 if page == "docs/performance.md" and words.NOT_MEASURED in text else 0
    assert len(text.splitlines()) + missing <= most


def test_every_block_is_in_a_page_and_says_where_its_figures_are_missing() -> None:
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in render.PAGES)
    for name, table in tables.BLOCKS.items():
        assert f"<!-- figures: begin {name} -->" in pages
        assert table({}).startswith(words.NOT_MEASURED)


def test_only_what_stands_between_markers_changes() -> None:
    text = "before\n<!-- figures: begin machine -->\nold\n<!-- figures: end -->\nafter 17 %\n"
    made = f"before\n<!-- figures: begin machine -->\n{words.NOT_MEASURED}\n<!-- figures: end -->\nafter 17 %\n"
    assert render.fill(text, {}) == made
    assert render.fill(made, {}) == made


@pytest.mark.parametrize(
    "text",
    [
        "<!-- figures: begin machine -->\n",
        "<!-- figures: end -->\n",
        "<!-- figures: begin machine -->\n<!-- figures: begin ratios -->\n<!-- figures: end -->\n",
        "<!-- figures: begin nothing -->\n<!-- figures: end -->\n",
    ],
)
def test_a_marker_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"counterpart|no figures are called 'nothing'"):
        render.fill(text, {})


def write(folder: Path, **files: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def test_figures_of_two_machines_do_not_stand_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, forward=FORWARD, stress=STRESS)
    assert set(data.load(tmp_path)) == {"forward", "stress"}
    write(tmp_path, stress=STRESS | {"machine": MACHINE_OF_LOAD | {"cores": 64}})
    with pytest.raises(data.TwoMachines, match="64"):
        data.load(tmp_path)


def test_the_load_tests_and_the_forward_in_words() -> None:
    found = {"stress": STRESS, "study": STUDY, "capacity": CAPACITY, "forward": FORWARD}
    load = tables.load(found)
    assert load.startswith("On 2 cores of an Intel Thing (AVX2), 4.0 GiB, torch 2")
    assert "| stress, 200 users, jpeg | 9 requests, 0 failed, 3.2 answers/s, p50 2.3 s, p95 4.4 s" in load
    assert "| study, 64 users, batch size 1 / 32 | 34.5 / 52.2 answers/s |" in load
    assert "| capacity, p95 ≤ 500 ms, jpeg | 40.9 requests/s |" in load
    rows = tables.forward(found).splitlines()[2:]
    assert rows == [
        "| eager, NCHW (what tutorials and TorchServe's handlers run) | 23.0 | 30.0 | 0e+00 | 0 s |",
        "| Winograd | 44.4 | 104 | 3e-06 | 4 s |",
    ]
    assert "one run of `make figures` at commit abc" in tables.machine(found | {"run": {"commit": "abc"}})


def writes(name: str, text: str) -> measure.Step:
    """A step that leaves one file."""
    program = f"import sys, pathlib; pathlib.Path(sys.argv[1], 'found').write_text({text!r})"
    return measure.Step(name, ("-c", program, "{out}"), (), {"found": f"docs/bench/{name}.json"})


def test_a_run_of_all_replaces_everything_and_says_so(tmp_path: Path) -> None:
    bench = tmp_path / "docs" / "bench"
    write(bench, **dict.fromkeys(data.NAMES, "old"))
    measure.measure([writes("peers", "new")], tmp_path, False)
    assert (bench / "peers.json").read_text() == "new"
    assert (bench / "scale.json").read_text() == '"old"'
    assert not (bench / "run.json").exists()
    measure.measure([writes(name, "all") for name in data.NAMES], tmp_path, False)
    assert {file.read_text() for file in bench.glob("*.json") if file.stem != "run"} == {"all"}
    assert json.loads((bench / "run.json").read_text())["steps"] == list(data.NAMES)


def test_a_bench_that_fails_replaces_nothing(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "bench", peers="old")
    fails = measure.Step("scale", ("-c", "raise SystemExit(3)"))
    with pytest.raises(subprocess.CalledProcessError):
        measure.measure([writes("peers", "new"), fails], tmp_path, False)
    assert json.loads((tmp_path / "docs/bench/peers.json").read_text()) == "old"


def test_every_file_of_the_data_and_every_picture_of_the_page_comes_from_a_step() -> None:
    places = {place for step in measure.STEPS for place in step.files.values()}
    assert {f"docs/bench/{name}.json" for name in data.NAMES} <= places
    assert {f"docs/images/{path.name}" for path in (ROOT / "docs/images").iterdir()} <= places
    drawn = {f"docs/bench/{path.name}" for path in (ROOT / "docs/bench").iterdir() if path.suffix in (".png", ".md")}
    assert drawn == {f"docs/bench/{name}{suffix}" for name in ("peers", "scale") for suffix in (".md", ".png")}


def test_rendering_alone_draws_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in render.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / page, tmp_path / page)
    shutil.copytree(ROOT / "docs" / "bench", tmp_path / "docs" / "bench", ignore=shutil.ignore_patterns("*.png"))
    monkeypatch.setattr(measure, "PROJECT", tmp_path)
    assert main(["--render"]) == 0
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    assert (tmp_path / "docs/bench/peers.png").stat().st_size > 1000
