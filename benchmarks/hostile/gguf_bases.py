"""GGUF files that are no base: what is done to a folder with a good one, by name."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hostile.damage import LATIN, Damage, cut, directory, looped, without, written

FILE = "model.gguf"
HIDDEN, INNER, HEADS, LAYERS, CONTEXT = 64, 64, 2, 2, 128  # those of `bed.make_bed`'s base, so that its adapter fits
LETTERS = [chr(n) for n in range(33, 127)]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
KINDS = [2, 3, 3, *[6] * 256, *[1] * (1 + len(LETTERS))]  # unknown, control, byte, normal
MODEL = "tokenizer.ggml"
PAIRS: dict[str, Any] = {
    "general.type": "model",
    "general.name": "tiny",
    "llama.context_length": CONTEXT,
    "llama.embedding_length": HIDDEN,
    "llama.block_count": LAYERS,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "llama.rope.freq_base": 10000.0,
    "llama.rope.dimension_count": HIDDEN // HEADS,
    "llama.vocab_size": len(TOKENS),
    f"{MODEL}.model": "llama",
    f"{MODEL}.pre": "default",
    f"{MODEL}.tokens": TOKENS,
    f"{MODEL}.scores": [-float(i) for i in range(len(TOKENS))],
    f"{MODEL}.token_type": KINDS,
    f"{MODEL}.bos_token_id": 1,
    f"{MODEL}.eos_token_id": 2,
    f"{MODEL}.unknown_token_id": 0,
}


def weights() -> dict[str, np.ndarray]:
    """Those of a Llama of these sizes, by GGUF's names."""
    draw = np.random.default_rng(0)
    square, sizes = (HIDDEN, HIDDEN), {"token_embd": (len(TOKENS), HIDDEN), "output": (len(TOKENS), HIDDEN), "output_norm": (HIDDEN,)}
    of_block = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square, "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
    of_block |= {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
    sizes |= {f"blk.{layer}.{name}": size for layer in range(LAYERS) for name, size in of_block.items()}
    return {
        f"{name}.weight": np.ones(size, np.float32) if len(size) == 1 else draw.normal(0, 0.1, size).astype(np.float32)
        for name, size in sizes.items()
    }


def write(path: Path, *, architecture: str = "llama", pairs: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> None:
    """A GGUF file, with these pairs of metadata and tensors in place of its own; None leaves one out."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (PAIRS | (pairs or {})).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value) if value >= 0 else writer.add_int32(key, value)
    for name, tensor in (weights() | (tensors or {})).items():
        if tensor is not None:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def but(**how: Any) -> Damage:
    """The file is one that `write` makes so."""
    return lambda folder: write(folder / FILE, **how)


def pair(key: str, value: Any) -> Damage:
    return but(pairs={key: value})


def replaced(start: int, content: bytes) -> Damage:
    """These bytes stand from there on."""

    def damage(folder: Path) -> None:
        whole = bytearray((folder / FILE).read_bytes())
        whole[start : start + len(content)] = content
        (folder / FILE).write_bytes(whole)

    return damage


def split(count: int, there: int) -> Damage:
    """The file is the first of so many parts, of which some are there, by a name that no part has."""

    def damage(folder: Path) -> None:
        for number in range(1, there + 1):
            write(folder / f"model-{number:05d}-of-{count:05d}.gguf", pairs={"split.count": count, "split.no": number - 1})
        (folder / FILE).unlink()
        (folder / FILE).symlink_to(f"model-{1:05d}-of-{count:05d}.gguf")

    return damage


def numbers(key: str, *values: Any) -> dict[str, Damage]:
    return {f"{key.rpartition('.')[2]}-{value}": pair(key, value) for value in values}


FIRST, HUGE = "blk.0.attn_q.weight", (2**62).to_bytes(8, "little")
GGUFS: dict[str, Damage] = {
    "file-missing": without(FILE),
    "file-empty": written(FILE, ""),
    "file-text": written(FILE, "no model at all"),
    "file-garbage": written(FILE, LATIN * 500),
    "file-magic-alone": written(FILE, b"GGUF"),
    "file-directory": directory(FILE),
    "file-loop": looped(FILE),
    **{f"file-cut-{share}": cut(FILE, share) for share in (0.0001, 0.01, 0.5, 0.999)},
    "header-magic": replaced(0, b"GGML"),
    "header-version-0": replaced(4, b"\0\0\0\0"),
    "header-version-1": replaced(4, b"\1\0\0\0"),
    "header-version-99": replaced(4, b"\x63\0\0\0"),
    "header-big-endian": replaced(4, b"\0\0\0\3"),
    "header-tensors-huge": replaced(8, HUGE),
    "header-tensors-0": replaced(8, bytes(8)),
    "header-pairs-huge": replaced(16, HUGE),
    "header-pairs-0": replaced(16, bytes(8)),
    "header-key-huge": replaced(24, HUGE),
    "header-key-binary": replaced(32, b"\xff\xfe\xff\xfe"),
    "header-type-99": replaced(52, b"\x63"),
    "holds-adapter": pair("general.type", "adapter"),
    "holds-imatrix": pair("general.type", "imatrix"),
    "holds-mmproj": pair("general.type", "mmproj"),
    "holds-number": pair("general.type", 5),
    "holds-vocabulary": but(tensors=dict.fromkeys(weights())),
    "parts-missing": split(3, 1),
    "parts-whole": split(2, 2),
    "parts-of-other-name": pair("split.count", 3),
    **{
        f"architecture-{name or 'empty'}": but(architecture=name)
        for name in ("", "nope", "clip", "bert", "whisper", "rwkv7", "\x1b[2J", "a b")
    },
    **numbers("llama.block_count", 0, 3, 2**31, None, "x", -1),
    **numbers("llama.embedding_length", 0, 3, 2**31, None, "x", -1),
    **numbers("llama.feed_forward_length", 0, 3, 2**31, None, "x", -1),
    **numbers("llama.attention.head_count", 0, 3, 2**31, None, "x", -1),
    **numbers("llama.attention.head_count_kv", 0, 3, "x", -1),
    **numbers("llama.context_length", 0, 1, "x", -1),
    **numbers("llama.attention.layer_norm_rms_epsilon", "x", float("nan"), float("inf"), -1.0),
    **numbers("llama.rope.freq_base", "x", float("nan"), float("inf")),
    "rope-scaling": but(tensors={"rope_freqs.weight": np.full(16, 3.0, np.float32)}),
    "rope-scaling-nan": but(tensors={"rope_freqs.weight": np.full(16, np.nan, np.float32)}),
    "rope-scaling-0": but(tensors={"rope_freqs.weight": np.zeros(16, np.float32)}),
    "rope-scaling-short": but(tensors={"rope_freqs.weight": np.ones(3, np.float32)}),
    "tokenizer-missing": but(pairs={key: None for key in PAIRS if key.startswith(MODEL)}),
    **{f"tokenizer-{name}": pair(f"{MODEL}.model", name) for name in ("nope", "bert", "no_vocab", "rwkv")},
    "tokenizer-tokens-none": pair(f"{MODEL}.tokens", None),
    "tokenizer-tokens-few": pair(f"{MODEL}.tokens", TOKENS[:20]),
    "tokenizer-tokens-more": pair(f"{MODEL}.tokens", [*TOKENS, *(f"x{i}" for i in range(50))]),
    "tokenizer-tokens-twice": pair(f"{MODEL}.tokens", ["<unk>"] * len(TOKENS)),
    "tokenizer-tokens-numbers": pair(f"{MODEL}.tokens", [*range(len(TOKENS))]),
    "tokenizer-scores-none": pair(f"{MODEL}.scores", None),
    "tokenizer-eos-beyond": pair(f"{MODEL}.eos_token_id", 10**6),
    "tokenizer-eos-string": pair(f"{MODEL}.eos_token_id", "x"),
    "template-garbage": pair("tokenizer.chat_template", "{% for %}"),
    "template-number": pair("tokenizer.chat_template", 5),
    "weights-missing-tensor": but(tensors={FIRST: None}),
    "weights-missing-embedding": but(tensors={"token_embd.weight": None}),
    "weights-other-shape": but(tensors={FIRST: np.ones((HIDDEN, 32), np.float32)}),
    "weights-vector": but(tensors={FIRST: np.ones(HIDDEN, np.float32)}),
    "weights-transposed": but(tensors={"blk.0.ffn_up.weight": np.ones((HIDDEN, 2 * INNER), np.float32)}),
    "weights-nan": but(tensors={FIRST: np.full((HIDDEN, HIDDEN), np.nan, np.float32)}),
    "weights-inf": but(tensors={FIRST: np.full((HIDDEN, HIDDEN), np.inf, np.float32)}),
    "weights-integers": but(tensors={FIRST: np.ones((HIDDEN, HIDDEN), np.int32)}),
}
