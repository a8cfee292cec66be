"""A stand-in for vLLM that needs no model and no GPU: for tests, demos and load generators.

It is started by the same launcher through an executable called `vllm`, takes vLLM's flags, speaks
its HTTP API and shows its metrics. `tests/worker_image` compares all of that with a recording of
the real one. How fast it is and how it fails is set by arguments, by the environment, by the
model's folder and, while it runs, by `POST /fake/faults`.
"""
