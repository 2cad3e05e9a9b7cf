"""Has the build put into a wheel what is no Python: copies of files that a clone has where one reads them.

Hatchling's own `force-include` would put them into an editable installation as well, where they would grow old.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PackedFiles(BuildHookInterface[Any]):
    """Reads the table `files` beside its own in pyproject.toml: path in the clone, path in the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build; `version` is "standard" or "editable"."""
        if version != "editable":
            build_data["force_include"].update(self.config["files"])
