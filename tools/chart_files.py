"""Files that the chart carries and other parts of the project make: written anew or compared.

The CRD comes from crds/, the gateway's start files from llmrollouts.traffic.bootstrap, with the
release's namespace left open for Helm. ``python -m tools.chart_files`` writes them; ``--check``
fails when one differs. `make chart` and `make check` call it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmrollouts.traffic.bootstrap import FILES, Bootstrap, render
from llmrollouts.traffic.tls import XDS_SERVICE

REPOSITORY = Path(__file__).resolve().parent.parent
CARRIED = REPOSITORY / "charts" / "llm-rollouts" / "files"
CRD = REPOSITORY / "crds" / "llmdeployments.llmrollouts.dev.yaml"
NAMESPACE = "{{ .Release.Namespace }}"
XDS_PORT = 18000


def make_files() -> dict[Path, str]:
    """What each carried file must hold."""
    host = f"{XDS_SERVICE}.{NAMESPACE}.svc"
    bootstrap = Bootstrap(xds=((host, XDS_PORT),), server_name=host)
    files = {CARRIED / "gateway" / name: render(bootstrap, name) for name in FILES}
    return {CARRIED / "llmdeployments.yaml": CRD.read_text(encoding="utf-8"), **files}


def list_differing() -> list[Path]:
    """Carried files that are missing, differ, or should not be there."""
    wanted = make_files()
    differing = [
        path
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    stray = [p for p in CARRIED.rglob("*") if p.is_file() and p not in wanted]
    return sorted(differing + stray)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.chart_files")
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    differing = list_differing()
    if parser.parse_args().check:
        for path in differing:
            print(f"{path.relative_to(REPOSITORY)} is out of date: make chart", file=sys.stderr)
        return 1 if differing else 0
    wanted = make_files()
    for path in differing:
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
        print(f"{path.relative_to(REPOSITORY)} written" if path in wanted else f"{path} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
