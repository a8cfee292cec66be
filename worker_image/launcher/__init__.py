"""The launcher: PID 1 of a worker's engine container.

It starts vLLM as its child, decides when the worker may take requests, and lets it leave without
cutting a stream. Standard library only, Python 3.9 and up, because it runs inside images that the
project did not build. `python3 /llmrollouts/launcher run --config /etc/llmrollouts/launcher.json`.
"""

VERSION = "0.1.0"
