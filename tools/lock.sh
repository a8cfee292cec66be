#!/usr/bin/env bash
# Pins what pyproject.toml asks for, with hashes, for every Python from 3.11 on. The files name
# packages only, no address: any mirror of the registry serves them.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
    --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml -o requirements.txt
compile --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
echo "requirements.txt: $(grep -c '^[a-z]' requirements.txt) packages," \
  "requirements-dev.txt: $(grep -c '^[a-z]' requirements-dev.txt)"
