"""What was measured, put into the documents: between markers, into pages of their own, and into pictures.

<!-- figures: begin ratios -->
whatever stands here is made by `bench.figures.tables.ratios`
<!-- figures: end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from bench import report
from bench import scale as growth
from bench.figures.data import Data, load
from bench.figures.tables import BLOCKS

PAGES = ("README.md", "docs/performance.md", "docs/load-testing.md")
"""Those with markers."""
_BLOCK = re.compile(
    r"(?P<begin>^<!-- figures: begin (?P<name>\S+) -->\n).*?(?P<end>^<!-- figures: end -->$)", re.M | re.S
)
_MARKER = re.compile(r"^<!-- figures: (begin|end)", re.M)


def fill(text: str, data: Data) -> str:
    """A page with what stands between its markers made anew.

    Raises:
        ValueError: a marker without its counterpart, or a name that no function of `tables` has.
    """

    def made(block: re.Match[str]) -> str:
        if block["name"] not in BLOCKS:
            raise ValueError(f"no figures are called {block['name']!r}; there are {', '.join(BLOCKS)}")
        return f"{block['begin']}{BLOCKS[block['name']](data)}\n{block['end']}"

    if len(_MARKER.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise ValueError("a marker of figures has no counterpart")
    return _BLOCK.sub(made, text)


def texts(root: Path) -> dict[Path, str]:
    """Every page that holds figures, as the data under `root` makes it.

    Raises:
        ValueError: as `fill` does, or the data are of several machines.
    """
    data = load(root / "docs" / "bench")
    pages = {root / page: fill((root / page).read_text(encoding="utf-8"), data) for page in PAGES}
    if "peers" in data:
        pages[root / "docs/bench/peers.md"] = report.markdown(data["peers"])
    if "scale" in data:
        pages[root / "docs/bench/scale.md"] = growth.markdown(data["scale"])
    return pages


def render(root: Path) -> None:
    """Write all pages and draw the bench's pictures; the load tests have drawn theirs."""
    for path, text in texts(root).items():
        path.write_text(text, encoding="utf-8")
    data = load(root / "docs" / "bench")
    if "peers" in data:
        report.plot(data["peers"], root / "docs/bench/peers.png")
    if "scale" in data:
        growth.plot(data["scale"], root / "docs/bench/scale.png")
