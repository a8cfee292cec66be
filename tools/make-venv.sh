#!/usr/bin/env bash
# Makes .venv from requirements-dev.txt (every file checked against its hash) and installs the
# package editable. Cached: nothing happens while the inputs are those of the last time.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .state
exec 9>.state/venv.lock
flock 9  # several make targets may run at once

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Python 3.11 or newer is needed as '$python' (PYTHON=/path/to/python make venv names another)" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  echo "This Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
  exit 1
fi

inputs=$({ "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; pwd
  cat tools/make-venv.sh requirements-dev.txt pyproject.toml; } | sha256sum | cut -c 1-12)
stamp=.venv/llm-rollouts.inputs
[ "$(cat "$stamp" 2>/dev/null || true)" = "$inputs" ] && exit 0

start=$SECONDS
echo "Python environment .venv (about half a minute the first time)"
usable() { .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
usable || { rm -rf .venv; "$python" -m venv .venv; }
rm -f "$stamp"

# uv is one of the pinned packages: pip installs it alone, it installs the rest in parallel.
uv_pin=$(mktemp)
trap 'rm -f "$uv_pin"' EXIT
awk '/^[^ ]/ { mine = /^uv==/ } mine' requirements-dev.txt >"$uv_pin"
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$uv_pin"
.venv/bin/uv pip install -q --python .venv/bin/python --require-hashes -r requirements-dev.txt
.venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
echo "$inputs" >"$stamp"
echo "Python environment ready in $((SECONDS - start)) s"
