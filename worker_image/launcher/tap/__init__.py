"""The folder that the launcher puts on the engine's PYTHONPATH; all it holds is `llmrollouts_tap`.

Apart from the launcher's own modules, so that none of their names (`config`, `command`, ...) hides
a module of the engine.
"""
