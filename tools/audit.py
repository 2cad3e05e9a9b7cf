"""Known vulnerabilities in what is installed: Python packages by pip-audit, the frontend's jar by its checksum.

    python tools/audit.py [--accept-offline]

Exits with 1 on a vulnerability, or a jar that SECURITY.md does not speak of; with 2 where the advisory service could
not be asked: an audit of nothing must not look like a clean one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SECURITY = Path(__file__).resolve().parents[1] / "SECURITY.md"
_MIN_AUDITED_SHARE = 0.5
_TIMEOUT_S = 600


def main() -> int:
    """Run both audits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept-offline", action="store_true", help="exit with 0 where no advisories can be had")
    options = parser.parse_args()
    known_jar = audit_jar()
    found = run_pip_audit()
    if found is None:
        print("pip-audit got no advisories: nothing was audited (no network, or an index that has none)")
        return 0 if options.accept_offline and known_jar else 2
    audited, vulnerable = found
    for line in vulnerable:
        print(line)
    print(f"{audited} packages audited, {len(vulnerable)} known vulnerabilities")
    return 1 if vulnerable or not known_jar else 0


def audit_jar() -> bool:
    """Whether the frontend's jar is the one whose libraries SECURITY.md lists."""
    spec = importlib.util.find_spec("ts")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    jar = Path(spec.submodule_search_locations[0]) / "frontend" / "model-server.jar"
    digest = hashlib.sha256(jar.read_bytes()).hexdigest()
    known = digest in SECURITY.read_text(encoding="utf-8")
    print(
        f"{jar.name} sha256 {digest}: {'its libraries are in SECURITY.md' if known else 'NOT THE JAR OF SECURITY.md'}"
    )
    return known


def run_pip_audit() -> tuple[int, list[str]] | None:
    """(packages audited, a line per vulnerability); None where there are no advisories to compare with."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        report: dict[str, Any] = json.loads(finished.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    packages = [package for package in report["dependencies"] if "skip_reason" not in package]
    if len(packages) < _MIN_AUDITED_SHARE * len(report["dependencies"]):
        return None
    return len(packages), [
        f"{package['name']} {package['version']}: {flaw['id']} ({', '.join(flaw['aliases'])}), "
        f"fixed in {', '.join(flaw['fix_versions']) or 'no version'}"
        for package in packages
        for flaw in package["vulns"]
    ]


if __name__ == "__main__":
    sys.exit(main())
