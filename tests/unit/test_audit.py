"""The audit: the jar that is installed is the one SECURITY.md speaks of, and an audit of nothing is no clean one."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tools import audit


def test_the_installed_jar_is_the_one_described() -> None:
    assert audit.audit_jar()


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ([{"name": "a", "skip_reason": "not found"}], None),
        ([{"name": "a", "version": "1", "vulns": []}], (1, [])),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}],
            (1, ["a 1: X-1 (CVE-1), fixed in 2"]),
        ),
    ],
)
def test_what_pip_audit_says(monkeypatch: pytest.MonkeyPatch, packages: list[Any], expected: Any) -> None:
    output = json.dumps({"dependencies": packages})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, output, ""))
    assert audit.run_pip_audit() == expected
