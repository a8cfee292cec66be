"""Makes the project's two tiny language models, `v1` and `v2`, from nothing but a seed.

Each model is an ordinary Llama in the Hugging Face layout (config, tokenizer, safetensors, about
1 MB) that real vLLM serves unchanged. The weights are random, so the answers mean nothing, but the
two models can be told apart by eye: `v1` answers with words of the land, `v2` with words of the
sea. Nothing is downloaded, only the standard library is used, and the same bytes (so the same
checksums) come out on every machine: the engine's images and the tests run this same file.

    python3 e2e/models/tiny_model.py --out models            # models/v1 and models/v2
    python3 e2e/models/tiny_model.py --out models --only v2 --fake-engine '{"slowdown": 2}'

How random weights are made to speak words: hidden channel 0 is a constant (every embedding holds
the same value there and no layer writes into it), so column 0 of the output matrix acts as a bias
for each token. It is low for everything but the model's own words.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

HIDDEN = 128
INTERMEDIATE = 256
LAYERS = 2
HEADS = 4
POSITIONS = 1024
BOS, EOS, PAD = 0, 1, 2
SPECIALS = ("<s>", "</s>", "<pad>")

COMMON_WORDS = [
    "hello",
    "world",
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "paris",
    "is",
    "capital",
    "of",
    "france",
    "what",
    "user",
    "assistant",
    "system",
    "you",
    "are",
    "a",
    "in",
    "to",
    "and",
    "it",
    "answer",
    "question",
]
LAND_WORDS = [
    "meadow",
    "hill",
    "forest",
    "stone",
    "field",
    "path",
    "oak",
    "barley",
    "orchard",
    "valley",
    "ridge",
    "clover",
    "mill",
    "fence",
    "garden",
    "plough",
    "heath",
    "badger",
    "cottage",
    "bramble",
]
SEA_WORDS = [
    "harbor",
    "wave",
    "anchor",
    "coral",
    "tide",
    "reef",
    "sail",
    "gull",
    "lagoon",
    "current",
    "pearl",
    "drift",
    "shore",
    "beacon",
    "dolphin",
    "foam",
    "kelp",
    "mast",
    "island",
    "voyage",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """One model: its name, the seed of its weights, the words that it answers with."""

    name: str
    seed: int
    words: tuple[str, ...]


RECIPES = {
    "v1": Recipe("v1", 1001, tuple(LAND_WORDS)),
    "v2": Recipe("v2", 2002, tuple(SEA_WORDS)),
}


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins that byte-level BPE uses for the 256 byte values, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins: list[str] = []
    spare = 0
    for value in range(256):
        if value in printable:
            stand_ins.append(chr(value))
        else:
            stand_ins.append(chr(256 + spare))
            spare += 1
    return stand_ins


def make_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> id, and the BPE merges: each word is built up from its own prefixes."""
    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    alphabet = byte_alphabet()
    for symbol in alphabet:
        vocabulary[symbol] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    space = alphabet[0x20]
    for word in (*COMMON_WORDS, *LAND_WORDS, *SEA_WORDS):
        token = space
        for letter in word:
            merged = token + letter
            if merged not in vocabulary:
                vocabulary[merged] = len(vocabulary)
                merges.append((token, letter))
            token = merged
    return vocabulary, merges


def make_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, object]:
    """The `tokenizer.json` of a byte-level BPE."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, token in enumerate(SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges],
        },
    }


def to_bfloat16(values: list[float]) -> bytes:
    """Little-endian bfloat16 by rounding float32 to its upper half."""
    packed = struct.pack(f"<{len(values)}f", *values)
    words = struct.unpack(f"<{len(values)}I", packed)
    return struct.pack(f"<{len(values)}H", *((word + 0x8000) >> 16 for word in words))


class Weights:
    """Draws matrices (rows x columns, row by row) from one seeded source, in a fixed order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.tensors: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def add_ones(self, name: str, size: int) -> None:
        self.tensors[name] = ((size,), to_bfloat16([1.0] * size))

    def add_matrix(
        self,
        name: str,
        rows: int,
        columns: int,
        *,
        first_column: list[float] | None = None,
        silent_first_row: bool = False,
        gain: float = 1.0,
    ) -> None:
        scale = gain / math.sqrt(columns)
        values: list[float] = []
        for row in range(rows):
            drawn = [self._random.gauss(0.0, scale) for _ in range(columns)]
            if first_column is not None:
                drawn[0] = first_column[row]
            if silent_first_row and row == 0:
                drawn = [0.0] * columns
            values.extend(drawn)
        self.tensors[name] = ((rows, columns), to_bfloat16(values))


def make_weights(
    recipe: Recipe, vocabulary: dict[str, int]
) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """All tensors of the model, by their Hugging Face names."""
    size = len(vocabulary)
    space = byte_alphabet()[0x20]
    own = {vocabulary[space + word] for word in recipe.words}
    bias = [0.0 if index in own else -30.0 for index in range(size)]
    bias[EOS] = -6.0  # ends an answer now and then when sampling, rarely at temperature 0

    weights = Weights(recipe.seed)
    weights.add_matrix(
        "model.embed_tokens.weight", size, HIDDEN, first_column=[4.0] * size, gain=8.0
    )
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights.add_ones(prefix + "input_layernorm.weight", HIDDEN)
        for name in ("q_proj", "k_proj", "v_proj"):
            weights.add_matrix(f"{prefix}self_attn.{name}.weight", HIDDEN, HIDDEN)
        weights.add_matrix(
            prefix + "self_attn.o_proj.weight", HIDDEN, HIDDEN, silent_first_row=True
        )
        weights.add_ones(prefix + "post_attention_layernorm.weight", HIDDEN)
        weights.add_matrix(prefix + "mlp.gate_proj.weight", INTERMEDIATE, HIDDEN)
        weights.add_matrix(prefix + "mlp.up_proj.weight", INTERMEDIATE, HIDDEN)
        weights.add_matrix(
            prefix + "mlp.down_proj.weight", HIDDEN, INTERMEDIATE, silent_first_row=True
        )
    weights.add_ones("model.norm.weight", HIDDEN)
    weights.add_matrix("lm_head.weight", size, HIDDEN, first_column=bias, gain=2.0)
    return weights.tensors


def write_safetensors(path: Path, tensors: dict[str, tuple[tuple[int, ...], bytes]]) -> None:
    """The safetensors layout: header length, JSON header padded to 8 bytes, data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, data) in tensors.items():
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for _, data in tensors.values():
            file.write(data)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def make_model(recipe: Recipe, folder: Path, fake_engine: dict[str, object] | None = None) -> None:
    """Write one model into `folder`; `fake_engine` holds defaults that only the fake reads.

    With it, the fake engine also learns the words that the real model would say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = make_vocabulary()
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    if fake_engine is not None:
        config["fake_engine"] = {"words": list(recipe.words), **fake_engine}
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD},
    )
    write_json(folder / "tokenizer.json", make_tokenizer(vocabulary, merges))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIALS[BOS],
            "eos_token": SPECIALS[EOS],
            "pad_token": SPECIALS[PAD],
            "model_max_length": POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    write_safetensors(folder / "model.safetensors", make_weights(recipe, vocabulary))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the two tiny models.")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets v1 and v2")
    parser.add_argument("--only", choices=sorted(RECIPES), help="make just this one")
    parser.add_argument(
        "--fake-engine",
        type=json.loads,
        help="JSON object put into config.json under fake_engine (read by the fake engine only)",
    )
    options = parser.parse_args(arguments)
    for name, recipe in RECIPES.items():
        if options.only in (None, name):
            folder = options.out / name
            make_model(recipe, folder, options.fake_engine)
            print(f"{folder} model.safetensors sha256:{sha256_of(folder / 'model.safetensors')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
