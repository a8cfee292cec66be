"""The page at /metrics: vLLM's families, with their labels and bounds, from `recorded.json`.

Every family that the real engine showed when it was recorded exists here, so dashboards and
queries find the same names; those that mean nothing for a fake stay at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from .batch import Generation

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
# The names under which `--custom-histogram-buckets` sets bounds, where they are not the metric's.
BUCKET_GROUPS = {
    "vllm:e2e_request_latency_seconds": "request_latency",
    "vllm:request_queue_time_seconds": "request_latency",
    "vllm:request_inference_time_seconds": "request_latency",
    "vllm:request_prefill_time_seconds": "request_latency",
    "vllm:request_decode_time_seconds": "request_latency",
    "vllm:time_to_first_token_seconds": "time_to_first_token",
    "vllm:inter_token_latency_seconds": "inter_token_latency",
    "vllm:request_time_per_output_token_seconds": "inter_token_latency",
    "vllm:iteration_tokens_total": "iteration_tokens",
    "vllm:request_params_n": "request_params_n",
    "vllm:request_num_preemptions": "request_num_preemptions",
    "vllm:request_prompt_tokens": "request_tokens",
    "vllm:request_generation_tokens": "request_tokens",
    "vllm:request_max_num_generation_tokens": "request_tokens",
    "vllm:request_params_max_tokens": "request_tokens",
    "vllm:request_prefill_kv_computed_tokens": "request_tokens",
}

Family = Counter | Gauge | Histogram | Summary


class Metrics:
    """One registry for one engine; `model_name` is the first served name."""

    def __init__(
        self,
        recorded: Mapping[str, Mapping[str, object]],
        model_name: str,
        custom_buckets: Mapping[str, Sequence[float]],
        cache_config: Mapping[str, str],
    ) -> None:
        self.registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
        self._fixed = {"model_name": model_name, "engine": "0"}
        self._families: dict[str, Family] = {}
        self._cache_config = cache_config
        for name, facts in recorded.items():
            if name.endswith("_created") or name.startswith(("python_", "process_")):
                continue
            self._add(name, facts, custom_buckets)

    def _add(
        self,
        name: str,
        facts: Mapping[str, object],
        custom_buckets: Mapping[str, Sequence[float]],
    ) -> None:
        kind = facts["type"]
        labels = _texts(facts.get("labels"))
        text = "Shown by the fake engine under the real engine's name."
        family: Family
        if kind == "counter":
            family = Counter(name.removesuffix("_total"), text, labels, registry=self.registry)
        elif kind == "gauge":
            family = Gauge(name, text, labels, registry=self.registry)
        elif kind == "summary":
            family = Summary(name, text, labels, registry=self.registry)
        else:
            bounds = custom_buckets.get(BUCKET_GROUPS.get(name, "")) or [
                float(bound) for bound in _texts(facts.get("buckets")) if bound != "+Inf"
            ]
            family = Histogram(name, text, labels, buckets=bounds, registry=self.registry)
        self._families[name] = family
        if "engine" not in labels and "model_name" not in labels:
            return
        free = [label for label in labels if label not in self._fixed]
        if not free:
            self.at(name)
        elif name == "vllm:cache_config_info":
            self.gauge(name, **self._config_labels(free)).set(1)
        else:
            for stated in _texts(facts.get("values")):
                label, _, value = stated.partition("=")
                self.at(name, **{label: value})

    def _config_labels(self, free: Sequence[str]) -> dict[str, str]:
        return {label: self._cache_config.get(label, "None") for label in free}

    def at(self, name: str, **labels: str) -> Family:
        """The family's child with these labels and the engine's own."""
        family = self._families[name]
        wanted = family._labelnames
        values = {**{k: v for k, v in self._fixed.items() if k in wanted}, **labels}
        return family.labels(**values) if values else family

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        child = self.at(name, **labels)
        if not isinstance(child, Counter):
            raise TypeError(f"{name} is not a counter")
        child.inc(amount)

    def gauge(self, name: str, **labels: str) -> Gauge:
        child = self.at(name, **labels)
        if not isinstance(child, Gauge):
            raise TypeError(f"{name} is not a gauge")
        return child

    def observe(self, name: str, value: float, **labels: str) -> None:
        child = self.at(name, **labels)
        if not isinstance(child, (Histogram, Summary)):
            raise TypeError(f"{name} cannot be observed")
        child.observe(value)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    # -- what the engine reports ----------------------------------------------------------------

    def record_first_token(self, generation: Generation) -> None:
        """When a generation's prompt has been computed."""
        tokens = len(generation.prompt)
        self.count("vllm:prompt_tokens_total", tokens)
        self.count(
            "vllm:prompt_tokens_by_source_total", tokens - generation.cached, source="local_compute"
        )
        self.count("vllm:prefix_cache_queries_total", tokens)
        if generation.cached:
            self.count(
                "vllm:prompt_tokens_by_source_total", generation.cached, source="local_cache_hit"
            )
            self.count("vllm:prompt_tokens_cached_total", generation.cached)
            self.count("vllm:prefix_cache_hits_total", generation.cached)
        if generation.first_token is not None:
            self.observe(
                "vllm:time_to_first_token_seconds", generation.first_token - generation.arrived
            )

    def record_end(self, generation: Generation) -> None:
        """When a generation has finished by itself; aborted ones are never observed, as in vLLM."""
        arrived = generation.arrived
        scheduled = generation.scheduled or arrived
        first = generation.first_token or scheduled
        last = generation.last_token or first
        self.count("vllm:request_success_total", finished_reason=generation.finish_reason)
        self.observe("vllm:e2e_request_latency_seconds", last - arrived)
        self.observe("vllm:request_queue_time_seconds", scheduled - arrived)
        self.observe("vllm:request_prefill_time_seconds", first - scheduled)
        self.observe("vllm:request_decode_time_seconds", last - first)
        self.observe("vllm:request_inference_time_seconds", last - scheduled)
        self.observe("vllm:request_prompt_tokens", len(generation.prompt))
        self.observe("vllm:request_generation_tokens", generation.generated)
        if generation.leads:
            self.observe("vllm:request_max_num_generation_tokens", generation.generated)
            self.observe("vllm:request_params_n", generation.choices)
        self.observe("vllm:request_params_max_tokens", generation.max_tokens)
        self.observe("vllm:request_num_preemptions", 0)
        self.observe(
            "vllm:request_prefill_kv_computed_tokens", len(generation.prompt) - generation.cached
        )
        per_token = (last - first) / (generation.generated - 1) if generation.generated > 1 else 0.0
        self.observe("vllm:request_time_per_output_token_seconds", per_token)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []
