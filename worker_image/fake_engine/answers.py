"""The JSON of answers and stream events, key for key as vLLM writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from .language import logprob_of, tokenize

Json = dict[str, object]


def encode(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def event(content: object) -> bytes:
    return b"data: " + encode(content) + b"\n\n"


DONE = b"data: [DONE]\n\n"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def full_usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        **usage(prompt_tokens, completion_tokens),
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


class Style:
    """What one request's answer repeats in every event: id, time, model, kind."""

    def __init__(
        self, *, is_chat: bool, request_id: str, created: int, model: str, fingerprint: str
    ) -> None:
        self.is_chat = is_chat
        self.request_id = request_id
        self.created = created
        self.model = model
        self.fingerprint = fingerprint

    def _head(self, kind: str) -> Json:
        return {
            "id": self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    # -- whole answers ------------------------------------------------------------------------

    def answer(self, choices: Sequence[Json], used: Json, prompt_logprobs: object = None) -> Json:
        common: Json = {
            "choices": list(choices),
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": used,
        }
        tail: Json = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        if self.is_chat:
            middle: Json = {
                "prompt_logprobs": prompt_logprobs,
                "prompt_token_ids": None,
                "prompt_text": None,
            }
            return {**self._head("chat.completion"), **common, **middle, **tail}
        return {**self._head("text_completion"), **common, **tail}

    def choice(
        self,
        index: int,
        text: str,
        finish_reason: str,
        stop_reason: str | None,
        logprobs: object,
        prompt_logprobs: object,
    ) -> Json:
        if self.is_chat:
            return {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": logprobs,
                "finish_reason": finish_reason,
                "stop_reason": stop_reason,
                "token_ids": None,
                "routed_experts": None,
            }
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
            "token_ids": None,
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": None,
            "routed_experts": None,
        }

    # -- stream events ------------------------------------------------------------------------

    def _chunk(self, choices: Sequence[Json]) -> Json:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": list(choices)}

    def role_chunk(self, index: int) -> Json:
        choice: Json = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return {**self._chunk([choice]), "prompt_token_ids": None, "prompt_text": None}

    def text_chunk(
        self,
        index: int,
        text: str,
        finish_reason: str | None,
        stop_reason: str | None,
        logprobs: object,
        *,
        last_of_stream: bool,
        used: Json | None,
    ) -> Json:
        choice: Json
        if self.is_chat:
            choice = {
                "index": index,
                "delta": {"content": text},
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }
            if finish_reason is not None:
                choice["stop_reason"] = stop_reason
            choice["token_ids"] = None
        else:
            choice = {
                "index": index,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
                "stop_reason": stop_reason,
                "prompt_token_ids": None,
                "token_ids": None,
            }
        chunk = self._chunk([choice])
        if used is not None:
            chunk["usage"] = used
        if last_of_stream:
            chunk["system_fingerprint"] = self.fingerprint
        return chunk

    def usage_chunk(self, used: Json) -> Json:
        return {**self._chunk([]), "usage": used, "system_fingerprint": self.fingerprint}

    # -- log probabilities --------------------------------------------------------------------

    def logprobs(
        self, tokens: Sequence[str], seed: int, first: int, top: int, offset: int, rival: str
    ) -> Json:
        """Log probabilities of `tokens`, the first of which is number `first` of the answer."""
        values = [logprob_of(seed, first + index) for index in range(len(tokens))]
        pairs = list(zip(tokens, values, strict=True))
        if self.is_chat:
            return {
                "content": [
                    {
                        **_chat_logprob(token, value),
                        "top_logprobs": [
                            _chat_logprob(name, logprob)
                            for name, logprob in _top(token, value, rival, top)
                        ],
                    }
                    for token, value in pairs
                ]
            }
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "text_offset": offsets,
            "token_logprobs": values,
            "tokens": list(tokens),
            "top_logprobs": [dict(_top(token, value, rival, top)) for token, value in pairs],
        }


def _top(token: str, value: float, rival: str, top: int) -> list[tuple[str, float]]:
    best = [(token, value)]
    if top > 1 and rival != token:
        best.append((rival, value - 0.7))
    return best


def _chat_logprob(token: str, value: float) -> Json:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


def prompt_logprobs(prompt: Sequence[int], texts: Sequence[str], seed: int) -> list[object]:
    """None for the first prompt token, then token id -> logprob, rank and text."""
    shown: list[object] = [None]
    for index, token in enumerate(prompt[1:], 1):
        text = texts[index] if index < len(texts) else ""
        shown.append(
            {
                str(token): {
                    "logprob": logprob_of(seed, index),
                    "rank": 1,
                    "decoded_token": text,
                }
            }
        )
    return shown


def models(served_names: Sequence[str], root: str, max_model_len: int, created: int) -> Json:
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": root,
                "parent": None,
                "max_model_len": max_model_len,
                "permission": [
                    {
                        "id": f"modelperm-{index:016x}",
                        "object": "model_permission",
                        "created": created,
                        "allow_create_engine": False,
                        "allow_sampling": True,
                        "allow_logprobs": True,
                        "allow_search_indices": False,
                        "allow_view": True,
                        "allow_fine_tuning": False,
                        "organization": "*",
                        "group": None,
                        "is_blocking": False,
                    }
                ],
            }
            for index, name in enumerate(served_names)
        ],
    }


def tokenized(body: Mapping[str, object], max_model_len: int) -> Json:
    tokens = tokenize(str(body.get("prompt", "")))
    return {
        "count": len(tokens),
        "max_model_len": max_model_len,
        "tokens": tokens,
        "token_strs": None,
    }
