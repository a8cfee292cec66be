"""The tap: an ASGI middleware class that runs inside vLLM (`--middleware llmrollouts_tap.Tap`).

It tells the launcher, by datagrams, when each request came, got its tokens, and ended. It decides
nothing, and nothing that goes wrong in it reaches a request. Standard library only, Python 3.9 and
up: it is imported by whatever Python the engine's image has. What the launcher makes of the
datagrams is in `launcher/sampler.py`.
"""

from .middleware import Tap

__all__ = ["Tap"]
