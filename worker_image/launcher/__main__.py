"""Entry point when the folder itself is given to Python (`python3 /llmrollouts/launcher ...`)."""

import sys
from importlib import import_module
from pathlib import Path

if __package__ in (None, ""):
    # Python put this folder first on the path; its modules are a package, so the parent goes there.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main = import_module("launcher.command").main
else:
    from .command import main

sys.exit(main())
