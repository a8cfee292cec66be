#!/usr/bin/env bash
# Pins every Python dependency with hashes: the package's own for every Python from 3.11 on, those
# of the images for the Python and the platform inside them. The files name packages only, no
# address: any mirror of the registry serves them.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  .venv/bin/uv pip compile -q --python-version 3.11 --generate-hashes \
    --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
}
compile --universal pyproject.toml -o requirements.txt
compile --universal --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
for inputs in images/*/requirements.in worker_image/*/requirements.in; do
  overrides=$(dirname "$inputs")/overrides.txt
  compile --python-platform x86_64-manylinux_2_31 "$inputs" -o "${inputs%.in}.txt" \
    $([ -f "$overrides" ] && echo --override "$overrides")
done
for pinned in requirements*.txt images/*/requirements.txt worker_image/*/requirements.txt; do
  echo "$pinned: $(grep -c '^[a-zA-Z]' "$pinned") packages"
done
