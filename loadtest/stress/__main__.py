"""`python -m loadtest.stress`: the stress test alone."""

from __future__ import annotations

import typer
from smartbatch_load.stress.command import stress

if __name__ == "__main__":
    typer.run(stress)
