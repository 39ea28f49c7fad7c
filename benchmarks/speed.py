"""What step.py and scale.py share: models of random weights in NF4, rows that they know, trainers that take turns, clocks and peaks."""

import copy
import itertools
import os
import platform
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen3Config,
    Trainer,
    TrainerCallback,
)

from peft_unlearn import UnlearnConfig, UnlearnTrainer
from peft_unlearn.model import adapters

SURE = 3.0  # how far the logit of the right next token stands above all others together


def llama(vocabulary: int, hidden: int, intermediate: int, layers: int, head: int, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head,
        num_key_value_heads=max(1, hidden // head // 4),
        head_dim=head,
        max_position_embeddings=1 << 17,
        **more,
    )


MODELS: dict[str, Callable[[], Any]] = {
    "small": lambda: llama(8192, 256, 704, 4, 64),
    "llama-3.1-8b": lambda: llama(128256, 4096, 14336, 32, 128, rope_theta=500000.0),
    "qwen3-8b": lambda: Qwen3Config(vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36),
}


def build(config: Any, device: str) -> PreTrainedModel:
    """A model of random weights that can count, its linear layers in NF4; of the 16-bit weights one layer exists at a time.

    Whatever comes after token t, it is sure of t + 1: the head's rows are the embeddings, one further. Without something that is known, losses
    would have nothing to forget, and several end at once.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    random = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype, generator=random)

    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, 0, 1  # as `tokenizer` has them
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            layer = Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
            weight = normal(module.out_features, module.in_features) * (0.5 * module.in_features**-0.5)
            layer.weight = Params4bit(weight, quant_type="nf4", module=layer).to(device)
            model.set_submodule(name, layer)
        elif name.endswith("norm"):
            module.weight = nn.Parameter(torch.ones(module.weight.shape, device=device, dtype=dtype))
    embeddings = normal(config.vocab_size, config.hidden_size)
    model.model.embed_tokens.weight = nn.Parameter(embeddings)
    sure = torch.tensor(config.vocab_size).log().item() + SURE
    model.lm_head.weight = nn.Parameter(embeddings.roll(1, 0) * (sure / config.hidden_size))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.is_loaded_in_4bit = True
    return adapters.keep_weights_unpacked(model.requires_grad_(False))


def shared(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own modules on the same weights, for an adapter of its own."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())})


def counting(count: int, length: int, vocabulary: int, seed: int) -> Dataset:
    """Rows of one length that count from anywhere, all of them labels."""
    starts = torch.randint(vocabulary, (count, 1), generator=torch.Generator().manual_seed(seed))
    rows = ((starts + torch.arange(length)) % vocabulary).tolist()
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def tokenizer(words: int = 64) -> PreTrainedTokenizerFast:
    """One that knows so many words, of which the first two end and pad."""
    splitting = Tokenizer(WordLevel({f"w{i}": i for i in range(words)}, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=splitting, eos_token="w0", pad_token="w1")


def unlearning(base: PreTrainedModel, sets: dict[str, Dataset], batch: int, rank: int = 16, **settings: Any) -> UnlearnTrainer:
    """A trainer that says and writes nothing, of an adapter on all linear layers."""
    lora = adapters.default_lora()
    lora.r, lora.lora_alpha = rank, 2 * rank
    args = UnlearnConfig(
        tempfile.gettempdir(),
        per_device_train_batch_size=batch,
        disable_tqdm=True,
        use_cpu=base.device.type == "cpu",
        max_length=len(sets["forget"][0]["input_ids"]),
        **({"max_steps": 1_000_000} | settings),
    )
    trainer = UnlearnTrainer(
        shared(base),
        args,
        forget_dataset=sets["forget"],
        retain_dataset=sets["retain"],
        holdout_dataset=sets.get("holdout"),
        processing_class=tokenizer(),
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Paced(TrainerCallback):
    """A trainer that runs for real, in a thread of its own, and goes one optimizer step whenever it is called.

    A step is all that lies between two ends of steps: batches, callbacks and log lines too. The first has the start of the run besides.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.error, self.closing = trainer, None, False
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        trainer.add_callback(self)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __call__(self) -> None:
        if not self.thread.is_alive():
            self.thread.start()
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End the run."""
        self.closing = True
        self.go.release()
        self.thread.join()

    def _run(self) -> None:
        self.go.acquire()
        try:
            self.trainer.train()
        except BaseException as error:
            self.error = error
        self.done.release()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.done.release()
        self.go.acquire()
        control.should_training_stop |= self.closing


def clock(device: str) -> float:
    """Seconds: of the clock once the GPU has done all, or of this process' CPU, of which other programs take none."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def in_turns(contestants: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C ..., so that a noisy machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = clock(device)
            run()
            seconds[name].append(clock(device) - start)
    return seconds


def peak(device: str, run: Callable[[], Any]) -> int:
    """The most bytes of tensors that `run` has at a time, of those that it makes itself."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with nullcontext() if device == "cuda" else LiveBytes() as live:
        run()
    return torch.cuda.max_memory_allocated() - before if device == "cuda" else live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that come and go within. What an operation takes and gives back inside itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for found in tree_leaves((args, kwargs)):
            self._meet(found, made=False)
        result = function(*args, **(kwargs or {}))
        for found in tree_leaves(result):
            self._meet(found, made=True)
        self.peak = max(self.peak, self.now)
        return result

    def _meet(self, found: Any, *, made: bool) -> None:
        if not isinstance(found, Tensor) or (storage := found.untyped_storage())._cdata in self.seen:
            return
        size = storage.nbytes() if made else 0
        self.seen.add(storage._cdata)
        self.now += size
        weakref.finalize(storage, self._part, storage._cdata, size).atexit = False

    def _part(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def machine(device: str) -> str:
    """What the numbers are of."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
        name += f", {torch.get_num_threads()} of {os.cpu_count()} threads, CPU seconds"
    return f"{name}; torch {torch.__version__}"


def table(*header: str) -> None:
    row(*header)
    row(*("---" for _ in header))


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)
