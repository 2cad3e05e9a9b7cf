#!/usr/bin/env bash
# Everything the bench needs: wrk, and an environment of its own for the peers, with the project's own PyTorch.
# The runtime environment (.venv) stays free of peers. Run once: bench/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=.venv/bin/python
[ -x "$runtime" ] || { echo "run \`make setup\` first: .venv is missing" >&2; exit 1; }

if ! command -v wrk >/dev/null; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    command -v apt-get >/dev/null || { echo "install wrk (github.com/wg/wrk) with your package manager" >&2; exit 1; }
    $sudo apt-get update -qq && $sudo apt-get install -y -qq wrk
fi

[ -x bench/.venv/bin/python ] || "$runtime" -m venv bench/.venv
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
"$runtime" -m pip list --format=freeze 2>/dev/null | grep -E '^(torch|torchvision|torchserve|numpy|pillow)==' > "$constraints"
env -u PYTHONDONTWRITEBYTECODE bench/.venv/bin/python -m pip install --disable-pip-version-check -q -e '.[bench,load,hf]' -c "$constraints"
bench/.venv/bin/python - <<'PY'
from importlib import metadata
for name in ("torch", "fastapi", "litserve", "mosec", "bentoml", "ray", "captum", "openvino"):
    print(f"{name:10} {metadata.version(name)}")
PY
