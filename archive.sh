#!/bin/sh
# Build model_store/<name>.mar (default resnet18). All options: ./archive.sh --help
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ -x "$here/.venv/bin/smartbatch" ]; then
    command="$here/.venv/bin/smartbatch"
elif command -v smartbatch >/dev/null 2>&1; then
    command=smartbatch
else
    echo "archive.sh: smartbatch is not installed here: run 'make setup' first, or activate its environment" >&2
    exit 1
fi
exec "$command" archive --output "$here/model_store" "$@"
