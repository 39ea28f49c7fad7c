"""A tiny model of an architecture through every command: what `benchmarks/architectures.py` does in each of its processes."""

import json
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from beds.small_configs import VOCABULARY, small_config
from peft_unlearn import workflows
from peft_unlearn.data import collate_rows
from peft_unlearn.model import packing
from peft_unlearn.model.lm_head import forward
from peft_unlearn.model.logprobs import score
from peft_unlearn.model.readout import find_readout
from peft_unlearn.report import plots
from peft_unlearn.util.errors import UserError

CLASSES: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TOLERANCE = 1e-4
LARGEST = 30_000_000  # parameters
NAMES, THINGS = ["Tom", "Ann", "Sam", "Mia"], ["ball", "dog", "hat", "drum"]
ROWS = [{"question": f"What does {n} keep ?", "answer": f"{n} keeps a {t} at home"} for n, t in zip(NAMES, THINGS, strict=True)]
RECIPE = {
    "model_name_or_path": "base",
    "forget_dataset": "forget.jsonl",
    "retain_dataset": "retain.jsonl",
    "output_dir": "out",
    "max_steps": 2,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "max_length": 32,
    "eval_rows": 1,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = sorted({word for row in ROWS for text in row.values() for word in text.split()} | {"Question", "Answer", ":"})
    whole = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=whole, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def build(name: str) -> PreTrainedModel:
    """A tiny model of the architecture, in the folder "base" as well, with rows beside it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(name), dtype=torch.float32)
    count = sum(p.numel() for p in model.parameters())
    if count > LARGEST:
        raise ValueError(f"{count:,} parameters are left")
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained("base")
    tokenizer().save_pretrained("base")
    for file, rows in (("forget", ROWS[:2]), ("retain", ROWS[2:])):
        Path(f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load("base")


def load(folder: str) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval().requires_grad_(False)


@torch.no_grad()
def say(model: Any) -> torch.Tensor:
    """Logits of two rows of 12 tokens."""
    ids = torch.randint(4, VOCABULARY // 2, (2, 12), generator=torch.Generator().manual_seed(5))
    found: torch.Tensor = model.eval()(input_ids=ids, use_cache=False).logits.float()
    return found


def same(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE:
        raise AssertionError(f"{what} differ by {error:.1e} of the largest")


@torch.no_grad()
def check_forward(model: PreTrainedModel) -> None:
    ids = torch.randint(4, VOCABULARY // 2, (2, 12), generator=torch.Generator().manual_seed(5))
    found = forward(model, input_ids=ids, attention_mask=None)
    same(found.head.logits(found.states.flatten(0, 1)).view(2, 12, -1), say(model), "logits by chunks and those of a plain forward")


@torch.no_grad()
def packs(model: PreTrainedModel) -> bool:
    """Whether training packs its rows; then their scores are those of padded rows, or an error says that they are not."""
    ids = torch.randint(4, VOCABULARY // 2, (4, 24), generator=torch.Generator().manual_seed(6)).tolist()
    rows = [{"input_ids": row[:length], "labels": row[:length]} for row, length in zip(ids, (24, 9, 17, 12), strict=True)]
    batch = collate_rows(rows, pad_token_id=0)
    with packing.packing(model):
        if not packing.takes(model, 23):
            return False
        found = score(model, batch).logps
    same(found, score(model, batch).logps, "log-probabilities of packed rows and of padded ones")
    return True


def check_merge() -> None:
    workflows.merge(workflows.MergeRequest("out", "merged", evaluate=False))
    base = say(load("base"))
    expected = say(PeftModel.from_pretrained(load("base"), "out"))
    if torch.equal(expected, base):
        raise AssertionError("the adapter changes nothing")
    same(say(load("merged")), expected, "logits of the merged folder and of the adapter on its base")


def steps(model: PreTrainedModel) -> dict[str, Callable[[], object]]:
    return {
        "forward": lambda: check_forward(model),
        "plan": lambda: workflows.plan(workflows.PlanRequest(RECIPE)),
        "train": lambda: workflows.train(workflows.TrainRequest(RECIPE)),
        "evaluate": lambda: workflows.evaluate(workflows.EvaluateRequest("out")),
        "audit": lambda: workflows.audit(workflows.AuditRequest("out", attacks=("white-box",))),
        "merge": check_merge,
    }


def one(name: str, folder: str, wanted: Sequence[str]) -> None:
    """Take an architecture through the steps that are wanted, and write what came of it into the folder as result.json."""
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"name": name, "class": CLASSES[name], "steps": {}}
    started = time.process_time()

    def told() -> None:
        result["seconds"] = round(time.process_time() - started, 1)
        Path("partial").write_text(json.dumps(result))
        Path("partial").rename("result.json")

    def failed(step: str, error: BaseException) -> None:
        refused = isinstance(error, UserError)
        said = " ".join(str(error).split())[:200]
        result["steps"][step] = f"refused: {error}" if refused else f"failed: {type(error).__name__}: {said}"
        if not refused:
            result.setdefault("tracebacks", {})[step] = traceback.format_exc()[-3000:]

    try:
        model = build(name)
    except BaseException as error:
        failed("small", error)
        told()
        return
    result["parameters"] = sum(p.numel() for p in model.parameters())
    try:
        result["lens"] = find_readout(model) is not None
    except Exception as error:
        failed("lens", error)
    try:
        result["packed"] = packs(model)
    except Exception as error:
        failed("packed", error)
    for step, do in steps(model).items():
        if step not in wanted or (step in ("evaluate", "audit", "merge") and result["steps"].get("train") != "works"):
            continue
        result["steps"][step] = "failed: it did not end in time, or the process died"  # until it is known better
        told()
        try:
            do()
            result["steps"][step] = "works"
        except Exception as error:
            failed(step, error)
        told()


def warm() -> None:
    """Go through all of it once, so that the processes to come have imported it all."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    plots._svg = lambda *figure: ""  # figures take a quarter of the time, and know nothing of architectures
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for do in steps(build("llama")).values():
            do()
        os.chdir(here)
