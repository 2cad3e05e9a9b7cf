"""The scripts of examples/, run as `python examples/<name>/<script>` runs them, but here, where torch is loaded."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def run(script: str, *arguments: object) -> str:
    """Run a script to its end; what it printed.

    Args:
        script: below examples/, as "digits/train.py".
        arguments: of its command line.

    Raises:
        AssertionError: it ended with another exit code than 0.
    """
    path = EXAMPLES / script
    said = io.StringIO()
    num_threads = torch.get_num_threads()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        finally:
            torch.set_num_threads(num_threads)
            for name, module in list(sys.modules.items()):
                # Each example has a model.py of its own beside its scripts.
                if Path(getattr(module, "__file__", None) or "/").parent == path.parent:
                    del sys.modules[name]
    assert code in (0, None), f"{script} ended with {code}\n{said.getvalue()}"
    return said.getvalue()
