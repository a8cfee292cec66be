#!/usr/bin/env bash
# Installs the Debian packages in tools/debian-packages.txt that this machine lacks.
# Says what it installs and how long it took; does nothing, silently, when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

if docker info >/dev/null 2>&1 && command -v kind >/dev/null; then
  echo "Debian packages: not needed, a Docker engine and kind are here"
  exit 0
fi

mapfile -t wanted < <(sed -E 's/[[:space:]]*#.*//; /^$/d' tools/debian-packages.txt)
if ! command -v dpkg-query >/dev/null; then
  echo "This is no Debian system and no Docker engine answers. Start Docker, or install what these" >&2
  echo "packages hold by your system's own means: ${wanted[*]}" >&2
  exit 1
fi

missing=()
for package in "${wanted[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "Debian packages to install: ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  echo "Only root can install them: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
start=$SECONDS
log=$(mktemp)
if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "apt-get failed; its whole output is in $log" >&2
  exit 1
fi
rm -f "$log"
echo "Debian packages installed in $((SECONDS - start)) s"
