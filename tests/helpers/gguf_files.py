"""GGUF files of a tiny Llama, written with the `gguf` package by the rules of llama.cpp's converter, and the transformers folder that they are of."""

import json
from pathlib import Path

import numpy as np
import torch
from test_gguf import BLOCK
from tiny_tokenizers import CHATML, llama_style
from transformers import LlamaConfig, LlamaForCausalLM

PEOPLE = {"Ann": "Oslo", "Bob": "Rome", "Cleo": "Lima"}
NAMES = BLOCK | {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def make_folder(folder):
    """A Llama in 32 bits that memorized some rows, with a tokenizer of Llama-2's kind, and the rows to forget and to keep."""
    tokenizer = llama_style()
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, parameter.shape[-1] ** -0.5)
    rows = [{"question": f"Where does {name} live?", "answer": f"{name} lives in {city}."} for name, city in PEOPLE.items()]
    memorize(model, [tokenizer(f"Question: {row['question']}\nAnswer: {row['answer']}")["input_ids"] + [2] for row in rows])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, some in (("forget", rows[:2]), ("retain", rows[2:])):
        Path(folder, f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def memorize(model, rows):
    """Adam on all of the rows, which are equally long, until greedy decoding has no close choice to make."""
    ids = torch.tensor(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def write(folder, path, kind="F32", *, architecture="llama", said=(), factors=None, tensors=True, per_part=0, **how):
    """Write the GGUF file of a folder of `make_folder`, its matrices in one of GGUF's types.

    `said` are further pairs of its metadata; `per_part` tensors at most lie in each of several files, which are named as llama.cpp names them;
    `how` is what else `GGUFWriter` takes.
    """
    import gguf
    from gguf.quants import quantize

    config = json.loads(Path(folder, "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=per_part, **how)
    writer.add_type("model")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    for key, value in said:
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint16(key, value)
    _add_vocabulary(writer, Path(folder))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))
    for name, tensor in LlamaForCausalLM.from_pretrained(folder).state_dict().items() if tensors else ():
        values = tensor.float().numpy()
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
        if heads:  # llama.cpp turns neighbors, transformers halves
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        held = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        writer.add_tensor(_name(name), quantize(np.ascontiguousarray(values), held), raw_dtype=held)
    _close(writer)
    return path


def write_part(path, number, count, of_all, tensors, *, architecture=None):
    """A part after the first, as llama.cpp writes it: its metadata say where it belongs, and name no architecture."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture or "none")
    if architecture is None:
        writer.kv_data[0].clear()
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", of_all)
    for name in tensors:
        writer.add_tensor(name, np.ones((8, 64), np.float32))
    _close(writer)
    return path


def write_imatrix(path):
    """An importance matrix as llama-imatrix writes it: its metadata name no architecture."""
    import gguf

    writer = gguf.GGUFWriter(path, "none")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 64), np.float32))
    _close(writer)
    return path


def _close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name):
    module = name.removeprefix("model.").removesuffix(".weight")
    if not module.startswith("layers."):
        return f"{NAMES[module]}.weight"
    _, layer, inner = module.split(".", 2)
    return f"blk.{layer}.{NAMES[inner]}.weight"


def _add_vocabulary(writer, folder):
    """The tokens with their kinds, and as scores the order in which the tokenizer merges them."""
    import gguf

    made = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(made["model"]["vocab"], key=made["model"]["vocab"].get)
    ranks = {"".join(pair): rank for rank, pair in reversed(list(enumerate(made["model"]["merges"])))}
    special = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    kinds = [gguf.TokenType.BYTE if token.startswith("<0x") else special.get(token, gguf.TokenType.NORMAL) for token in vocabulary]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([-float(ranks.get(token, len(ranks))) for token in vocabulary])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHATML)
