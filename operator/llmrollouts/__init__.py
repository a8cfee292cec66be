"""LLM Rollouts: a Kubernetes operator that releases large language models step by step."""

__version__ = "0.1.0"
