"""Measure everything that README and docs show, then put it there.

python -m bench.figures [--quick] [--only STEP ...]    measure, then render: about two hours
python -m bench.figures --render                       render what docs/bench holds
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from bench.figures import measure, render

REHEARSAL = Path("bench/results/figures")


def main(argv: list[str] | None = None) -> int:
    """Measure unless only rendering is asked for; render."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--quick", action="store_true", help=f"a rehearsal of minutes, into {REHEARSAL}")
    names = [step.name for step in measure.STEPS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP", help=", ".join(names))
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = rehearsal(measure.PROJECT) if args.quick else measure.PROJECT
    try:
        if not args.render:
            measure.measure([step for step in measure.STEPS if step.name in args.only], root, args.quick)
        render.render(root)
    except subprocess.CalledProcessError as error:
        print(f"[figures] nothing was replaced: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"[figures] {error}", file=sys.stderr)
        return 2
    print(f"[figures] written: {', '.join(render.PAGES)} in {root}")
    return 0


def rehearsal(project: Path) -> Path:
    """A copy of the pages with figures, without any figures yet."""
    root = project / REHEARSAL
    shutil.rmtree(root, ignore_errors=True)
    for page in render.PAGES:
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / page, root / page)
    return root


if __name__ == "__main__":
    sys.exit(main())
