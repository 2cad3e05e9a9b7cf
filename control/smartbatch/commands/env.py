"""`smartbatch env`: the environment in which plain `torchserve` runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from smartbatch.commands.output import answer


def env(
    shell: Annotated[bool, typer.Option(help="Print export lines; --no-shell prints JSON.")] = True,
) -> None:
    """Print what plain `torchserve` needs: eval "$(smartbatch env)"."""
    from smartbatch.server.jvm.command import java_home

    home = java_home()
    path = os.pathsep.join([str(home / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    exports = f"export JAVA_HOME={shlex.quote(str(home))}\nexport PATH={shlex.quote(path)}"
    answer({"JAVA_HOME": str(home), "PATH": path}, not shell, exports)
