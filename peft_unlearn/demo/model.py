"""The demo's models: a small Llama that memorized the people, and a never-seen model, trained in the same way without the forget set.

A small model can lose its memory to NF4 alone (measured: extraction strength 1.0 -> .46 for 0.66M parameters), and would then show nothing
about forgetting. So the second half of training computes with the NF4 weights and moves the weights behind them (straight-through
estimator, arXiv 1308.3432): what is memorized, is memorized by the quantized model too.
"""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from peft_unlearn.data import collate_rows, tokenize
from peft_unlearn.demo.people import People
from peft_unlearn.model.fake_quant import nf4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """Of a small Llama. Sizes are multiples of 64 because bitsandbytes needs them on CPU."""

    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    initializer_range: float = 0.04  # at the usual .02, 4 layers miss the goal after 36 epochs; at .06 it takes 23
    context: int = 256


@dataclass(frozen=True)
class Recipe(Architecture):
    """How both models are built and trained; measured in docs/studies/demo.md."""

    learning_rate: float = 2e-3  # at 5e-3, 4 layers have a third of the answers wrong after 36 epochs
    batch_size: int = 16
    decay_epochs: int = 32  # linear, down to a twentieth; over 40 epochs, answers once right are lost again (2-6 % an epoch)
    max_epochs: int = 44
    full_precision_epochs: int = 14  # the NF4 forward pass costs half as much again, and is not needed to find the facts
    goal: float = 0.012  # mean cross-entropy of an epoch, in nats a token, with every token of every answer right


@dataclass(frozen=True)
class Models:
    """Folders that `from_pretrained` loads, model and tokenizer (the same one) in each."""

    memorized: Path
    never_seen: Path


def default_cache() -> Path:
    """$PEFT_UNLEARN_CACHE/demo, else peft-unlearn/demo in the user's cache folder."""
    if "PEFT_UNLEARN_CACHE" in os.environ:
        return Path(os.environ["PEFT_UNLEARN_CACHE"]) / "demo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peft-unlearn" / "demo"


def train_models(people: People, cache: Path, seed: int, recipe: Recipe = Recipe()) -> Models:
    """Train both models side by side, one core each, or find them in `cache` under a key of people, seed, recipe and the folders' names.

    The folder appears under its key only when both models are complete. Each model's training.json says how its training went; a model that
    missed the recipe's goal is kept, with a warning.
    """
    folders = [
        f.name for f in fields(Models)
    ]  # in the key, so that what an earlier version left under other names is not taken for complete
    trained_on = {name: rows for name, rows in asdict(people).items() if name != "two_hop"}
    inputs = json.dumps([trained_on, seed, asdict(recipe), folders], sort_keys=True)
    folder = cache / hashlib.sha256(inputs.encode()).hexdigest()[:16]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-unfinished-", dir=cache) as scratch:
            _train_both(people, Path(scratch) / "models", seed, recipe)
            (Path(scratch) / "models").rename(folder)
    trained = Models(folder / "memorized", folder / "never_seen")
    for path in (trained.memorized, trained.never_seen):
        training = json.loads((path / "training.json").read_text())
        if not training["goal_reached"]:
            logger.warning(
                "The demo's %s model missed its goal: %.1f %% of its rows are memorized after %d epochs.",
                path.name,
                100 * training["rows_right"],
                training["epochs"],
            )
    return trained


def train_tokenizer(people: People) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the rows is one token.

    Were names cut into pieces, their ends would follow from their beginnings, and a model that never met them would score on them.
    """
    splits = [people.forget, people.retain, people.never_used, *people.paraphrases.values()]
    special = ["<pad>", "<s>", "</s>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (f"Question: {row['question']}\nAnswer: {row['answer']}" for rows in splits for row in rows),
        trainers.BpeTrainer(
            vocab_size=8192,  # out of reach: merges end when every word is whole
            min_frequency=1,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", special.index("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _train_both(people: People, folder: Path, seed: int, recipe: Recipe) -> None:
    tokenizer = train_tokenizer(people)
    rows = {"memorized": people.retain + people.forget, "never_seen": people.retain}
    for name in rows:
        tokenizer.save_pretrained(folder / name)
    # spawn: a fork after OpenMP has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(rows), context, initializer=tqdm.set_lock, initargs=(context.RLock(),)) as pool:
        running = []
        for position, name in enumerate(rows):
            tokenized = tokenize(Dataset.from_list(rows[name]), tokenizer, recipe.context, name=name).rows
            running.append(pool.submit(_train, tokenized.to_list(), folder / name, seed, recipe, position))
        for training in running:
            training.result()


def _train(rows: list[dict[str, Any]], folder: Path, seed: int, recipe: Recipe, position: int) -> None:
    """Train on `rows`, with the tokenizer in `folder`, and save there. One thread: the order of its sums is the same on every machine."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = small_llama(tokenizer, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    steps_per_epoch = math.ceil(len(rows) / recipe.batch_size)

    def learning_rate(step: int) -> float:
        return recipe.learning_rate * min((step + 1) / 30, max(0.05, 1 - step / (recipe.decay_epochs * steps_per_epoch)))

    start, step, loss, right = time.process_time(), 0, math.inf, 0.0
    with tqdm(total=recipe.max_epochs, desc=f"Training {folder.name}", unit="epoch", position=position) as bar:
        for epoch in range(recipe.max_epochs):
            if epoch == recipe.full_precision_epochs:
                compute_in_nf4(model)
            losses, rights = [], []
            for batch in epoch_batches(rows, rng, recipe.batch_size, tokenizer.pad_token_id):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step)
                batch_loss, batch_right = forward(model, batch)
                optimizer.zero_grad()
                batch_loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step += 1
                losses.append(batch_loss.item())
                rights.extend(batch_right.tolist())
            loss, right = sum(losses) / len(losses), sum(rights) / len(rights)
            bar.set_postfix_str(f"loss {loss:.3f}, memorized {right:.0%}", refresh=False)
            bar.update()
            goal_reached = epoch >= recipe.full_precision_epochs and right == 1 and loss <= recipe.goal
            if goal_reached:
                bar.total = epoch + 1
                bar.refresh()
                break
    compute_as_saved(model)
    model.save_pretrained(folder)
    training = {
        "epochs": epoch + 1,
        "cpu_seconds": round(time.process_time() - start, 1),
        "loss": loss,
        "rows_right": right,
        "goal_reached": goal_reached,
    }
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def compute_in_nf4(model: LlamaForCausalLM) -> None:
    """From here on, compute with the NF4 weights and move the weights behind them."""
    for layer in _quantizable(model):
        parametrize.register_parametrization(layer, "weight", _StraightThroughNF4())


def compute_as_saved(model: LlamaForCausalLM) -> None:
    """Compute with the weights themselves again, where that was changed."""
    for layer in _quantizable(model):
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _StraightThroughNF4(nn.Module):
    """W -> the weights that `Linear4bit` computes with (NF4, blocks of 64, double quantization); the gradient passes as if they were W."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (nf4(weight.detach()) - weight).detach()


def small_llama(tokenizer: PreTrainedTokenizerBase, shape: Architecture) -> LlamaForCausalLM:
    """As yet untrained."""
    config = LlamaConfig(
        vocab_size=64 * math.ceil(len(tokenizer) / 64),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        max_position_embeddings=shape.context,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def _quantizable(model: LlamaForCausalLM) -> list[nn.Linear]:
    """What transformers quantizes: every linear layer but the output embedding."""
    return [module for module in model.model.layers.modules() if isinstance(module, nn.Linear)]


def epoch_batches(rows: Sequence[dict[str, Any]], rng: random.Random, size: int, pad_token_id: int) -> list[dict[str, Tensor]]:
    """One epoch in random order, rows of like length together: biographies are four times as long as answers."""
    order = sorted(rng.sample(rows, len(rows)), key=lambda row: len(row["input_ids"]))
    batches = [collate_rows(order[start : start + size], pad_token_id) for start in range(0, len(order), size)]
    return rng.sample(batches, len(batches))


def forward(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the answers' tokens, and (B,) whether greedy decoding gets every token of a row's answer."""
    hidden = model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state[
        :, :-1
    ]
    targets = batch["labels"][:, 1:]
    answers = targets != -100
    logits = model.get_output_embeddings()(hidden[answers])
    correct = torch.ones_like(answers).masked_scatter(answers, logits.argmax(-1) == targets[answers])
    return nn.functional.cross_entropy(logits, targets[answers]), correct.all(-1)
