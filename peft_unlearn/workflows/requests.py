"""What each workflow is asked for: one frozen dataclass a workflow; `help`, defaults and choices of its fields are those of the command line.

Nothing heavy is imported here, so that a mistake in a request is told before torch is imported.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from peft_unlearn.config.methods import METHODS, OURS
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.llama_cpp import TYPES, VARIABLE
from peft_unlearn.util.ranges import Range, check_number

Name = str | Path  # a local folder, or a name on the Hub
Texts = str | Path | Mapping[str, Any]  # a file, a name on the Hub, or a mapping with load_dataset's arguments


@dataclass(frozen=True)
class Request:
    """A field's metadata has its `help`, maybe `choices`, and the `option` of the command line where it is not the field's name."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, choices = getattr(self, f.name), f.metadata.get("choices", ())
            if isinstance(value, str) and isinstance(f.default, tuple):
                raise UserError(f"{option(f)}: {value!r} is one name, write a list of names.")
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, str) and f.name != "system_prompt" and not (one.isprintable() and one.strip()):
                    raise UserError(f"{option(f)}: {one!r} is empty or cannot be printed, write a name.")
                if choices and one is not None and one not in choices:
                    raise UserError(f"{option(f)}: {one!r} is not one of {', '.join(choices)}.")


@dataclass(frozen=True)
class TrainRequest(Request):
    """Make a model forget: check a recipe, train an adapter, evaluate before and after, write it all down."""

    recipe: str | Path | Mapping[str, Any] = field(metadata={"help": "a YAML file of keys and values; recipes/ holds some to start from"})
    overrides: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "keys that differ from the recipe's"})


@dataclass(frozen=True)
class PlanRequest(TrainRequest):
    """What GPU memory a recipe's run would take. Its data need not be there, its model's config must be; to be `timed`, all must be there."""

    _: KW_ONLY
    timed: bool = field(default=False, metadata={"help": "begin the run on this machine, a few steps of it, and tell its minutes as well"})


@dataclass(frozen=True)
class RetrainCostRequest(TrainRequest):
    """What it would take to train your LoRA again without the rows to forget, beside what forgetting them took."""

    _: KW_ONLY
    train: Texts | None = field(default=None, metadata={"help": "what your LoRA was trained on; the recipe's retain set if left out"})
    epochs: float = field(default=3.0, metadata={"help": "passes over it"})
    batch: int = field(default=8, metadata={"help": "rows of a step"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epochs", self.epochs, Range("above 0"))
        check_number("batch", self.batch, Range("at least 1"), whole=True)


@dataclass(frozen=True)
class _Measured(Request):
    """What `evaluate` and `audit` are both told: the model, the sets and how to read them."""

    model: Name = field(
        metadata={"help": "an output folder of a run, whose recipe.yaml says what is not said here; a whole model; a Hub name"}
    )
    _: KW_ONLY
    base: Name | None = field(default=None, metadata={"help": "the base model of an adapter"})
    never_seen: Name | None = field(default=None, metadata={"help": "a model or adapter that never saw the forget set, to compare with"})
    forget: Texts | None = field(default=None, metadata={"help": "the texts to forget"})
    retain: Texts | None = field(default=None, metadata={"help": "the texts to keep"})
    holdout: Texts | None = field(default=None, metadata={"help": "texts of the forget set's kind that no model saw, for membership"})
    benchmark: str | None = field(default=None, metadata={"help": "instead of texts of your own", "choices": ("tofu", "muse", "wmdp")})
    data: Name | None = field(
        default=None, metadata={"help": "its official files, or a dataset on the Hub; the official one there if left out"}
    )
    split: str | None = field(
        default=None, metadata={"help": "tofu: forget01, forget05, forget10; muse: news, books; wmdp: bio, cyber, chem"}
    )
    rows: int | None = field(default=None, metadata={"help": "rows of each set, evenly spaced; 0 is all, and the default of a benchmark"})
    batch_size: int | None = field(default=None, metadata={"help": "rows in a batch"})
    system_prompt: str | None = field(default=None, metadata={"help": "a system turn before every conversation of the chat template"})
    settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "other keys of a recipe, such as load_in_4bit=true", "option": "set"}
    )
    show_text: bool = field(default=False, metadata={"help": "show questions and answers of the forget set, also on the page"})


@dataclass(frozen=True)
class EvaluateRequest(_Measured):
    """What a model still knows of texts or of a benchmark: without and with a forgetting adapter, or of any causal language model as it is."""

    _: KW_ONLY
    definitions: str = field(default="peft-unlearn", metadata={"help": "whose metrics", "choices": ("peft-unlearn", "openunlearning")})
    samples: int = field(default=0, metadata={"help": "also draw so many answers to each forget row (leak at k)"})
    tasks: Sequence[str] = field(default=(), metadata={"help": "also tasks of lm-evaluation-harness: names, groups, or YAML files"})
    output: str | Path | None = field(
        default=None, metadata={"help": "write a report.json here, and the same as a page, report.html, beside it"}
    )


@dataclass(frozen=True)
class AuditRequest(_Measured):
    """Attack an adapter: what precision, scale, other prompts, samples and relearning bring back of what it made a model forget."""

    _: KW_ONLY
    benchmark: str | None = field(default=None, metadata={"help": "instead of texts of your own", "choices": ("tofu", "muse")})
    full: bool = field(default=False, metadata={"help": "every attack, in its longer form"})
    attacks: Sequence[str] = field(default=(), metadata={"help": "these attacks alone"})
    others: Sequence[Name] = field(default=(), metadata={"help": "adapters to compose this one with", "option": "with"})
    output: str | Path | None = field(default=None, metadata={"help": "the report; report.json in the adapter's folder if left out"})


@dataclass(frozen=True)
class AskRequest(Request):
    """Ask the model before, the model after and a never-seen model the same question."""

    model: Name = field(metadata={"help": "an output folder of a run, a whole model, or a Hub name"})
    _: KW_ONLY
    base: Name | None = field(default=None, metadata={"help": "the base model of an adapter"})
    never_seen: Name | None = field(default=None, metadata={"help": "a model or adapter that never saw the forget set, to compare with"})
    settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "other keys of a recipe, such as load_in_4bit=true", "option": "set"}
    )


@dataclass(frozen=True)
class MergeRequest(Request):
    """Merge a forgetting adapter into its base, shard by shard, measure what survives, and evaluate what was written."""

    adapter: Name = field(metadata={"help": "the output folder of a run, or a Hub name"})
    output: str | Path = field(metadata={"help": "a new folder for the merged model"})
    _: KW_ONLY
    base: Name | None = field(default=None, metadata={"help": "the base; the one that the adapter names if left out"})
    below: Name | None = field(default=None, metadata={"help": "the adapter that this one was trained on; its recipe.yaml's if left out"})
    dtype: str | None = field(
        default=None,
        metadata={"help": "type of the merged weights; the base's own if left out", "choices": ("bf16", "fp16", "fp32"), "option": "to"},
    )
    quantize: str | None = field(
        default=None, metadata={"help": "quantize after merging; nf4 with double quantization", "choices": ("nf4", "int8")}
    )
    onto: str = field(
        default="original",
        metadata={
            "help": "dequantized: onto the quantized weights that the adapter was trained on, as recipe.yaml says (nf4 if there is none)",
            "choices": ("original", "dequantized"),
        },
    )
    force: bool = field(default=False, metadata={"help": "merge in place into quantized weights, which erases small changes"})
    evaluate: bool = field(default=True, metadata={"help": "evaluate the merged folder", "option": "no-evaluate"})


HUB_BASE = "the base's name on the Hub, where the adapter names a folder of this machine"
HUB_BELOW = "the same for the adapter that this one was trained on top of"


@dataclass(frozen=True, kw_only=True)
class _Smaller(Request):
    """How small one LoRA of several is made."""

    rank: int | None = field(default=None, metadata={"help": "its rank at most; left out, the sum of theirs, which is exact"})
    energy: float | None = field(default=None, metadata={"help": "the smallest rank at which every module keeps this share, in its place"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.energy is not None:
            raise UserError("energy: it chooses the rank, write one of the two.")
        if self.rank is not None:
            check_number("rank", self.rank, Range("at least 1"), whole=True)
        if self.energy is not None:
            check_number("energy", self.energy, Range("from 0 to 1"))


@dataclass(frozen=True)
class CombineRequest(_Smaller):
    """Make one LoRA of your own and a forgetting adapter: their exact sum, or the nearest one of a smaller rank."""

    adapters: Sequence[Name] = field(metadata={"help": "your own LoRA, and then what was trained on top of it: folders or Hub names"})
    output: str | Path = field(metadata={"help": "a new folder for the one adapter"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.adapters, str | Path) or len(self.adapters) < 2:
            raise UserError("adapters: give two or more, your own LoRA first.")


@dataclass(frozen=True)
class LedgerRequest(Request):
    """A folder of requests to forget that came one after another."""

    folder: str | Path = field(metadata={"help": "the folder of the requests: ledger.json, and an adapter for each"})


@dataclass(frozen=True)
class AddRequest(TrainRequest):
    """Forget one more set of rows: train an adapter on top of those before, kept away from them, and enter it."""

    _: KW_ONLY
    folder: str | Path = field(metadata={"help": "the folder of the requests, new or not"})
    name: str = field(metadata={"help": "what the request is called, such as a number; its adapter's folder gets that name"})


@dataclass(frozen=True)
class ComposeRequest(_Smaller, LedgerRequest):
    """Make one LoRA of your own and of all requests that stand."""

    output: str | Path = field(metadata={"help": "a new folder for the one adapter"})


@dataclass(frozen=True)
class RevokeRequest(LedgerRequest):
    """Take a request's adapter out again. It stays in the ledger, as one that was revoked."""

    name: str = field(metadata={"help": "the request"})


@dataclass(frozen=True)
class ExportRequest(Request):
    """Write into a new folder what `push` would upload, without local paths; or GGUF files for llama.cpp, Ollama and LM Studio, and measure them."""

    adapter: str | Path = field(metadata={"help": "the output folder of a run, or of `merge`"})
    output: str | Path = field(metadata={"help": "a new folder"})
    _: KW_ONLY
    base: str | None = field(default=None, metadata={"help": f"{HUB_BASE}; with --gguf the base to merge into"})
    below: str | None = field(default=None, metadata={"help": HUB_BELOW})
    gguf: Sequence[str] = field(
        default=(), metadata={"help": "GGUF files instead: types that the merged model is written in, or lora", "choices": TYPES}
    )
    llama_cpp: str | Path | None = field(
        default=None, metadata={"help": f"the folder of llama.cpp's source, whose converters are run; ${VARIABLE} if left out"}
    )
    before: bool = field(default=False, metadata={"help": "also ask the base, exported as the first type"})
    evaluate: bool = field(default=True, metadata={"help": "do not ask the GGUF files", "option": "no-evaluate"})


@dataclass(frozen=True)
class PushRequest(Request):
    """Upload an adapter or a merged model to the Hugging Face Hub, privately unless told otherwise."""

    adapter: str | Path = field(metadata={"help": "the output folder of a run, or of `merge`"})
    repo: str = field(metadata={"help": "name of the repository, such as me/my-adapter"})
    _: KW_ONLY
    public: bool = field(default=False, metadata={"help": "anyone may then compare base and adapter, and see what was forgotten"})
    revision: str | None = field(default=None, metadata={"help": "branch to upload to"})
    base: str | None = field(default=None, metadata={"help": HUB_BASE})
    below: str | None = field(default=None, metadata={"help": HUB_BELOW})


@dataclass(frozen=True, kw_only=True)
class DemoRequest(Request):
    """Fictional people, a small model that memorized them, and methods that make it forget some."""

    method: Sequence[str] = field(default=OURS, metadata={"help": "methods to show", "choices": METHODS})
    seed: int = field(default=0, metadata={"help": "other people, other models, other runs"})
    output: str | Path = field(default="runs/demo", metadata={"help": "a folder for data and adapters"})
    fresh: bool = field(default=False, metadata={"help": "train the models again, even if they are in the cache"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("seed", self.seed, Range("from 0 to 4294967295"))


def option(of: "dataclasses.Field[Any]") -> str:
    """The option of the command line that gives a field, without its dashes."""
    return str(of.metadata.get("option", of.name.replace("_", "-")))
