"""A method is data: a named set of values for the keys of a recipe.

What a recipe does not say comes from its method, and from nowhere else. docs/studies/defaults.md tells how each number was found. Other packages
bring theirs by an entry point of the group `peft_unlearn.methods`, whose name is the method's and whose value is `module:NAME` of a `Method`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from peft_unlearn.util.errors import UserError
from peft_unlearn.util.registry import refuse_double


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        help: what it is, in a few words.
        settings: values of keys, over those of `COMMON`.
        papers: arXiv numbers; none where there is no paper.
        with_targets: values over those where `stop_at` gives each token a target. Left out, they are as without.
    """

    help: str
    settings: Mapping[str, Any]
    papers: tuple[str, ...] = ()
    with_targets: Mapping[str, Any] = field(default_factory=dict)


COMMON: dict[str, Any] = {
    "forget_loss_args": {},
    "retain_loss": "none",
    "retain_kl": "none",
    "holdout_kl": "none",
    "neutral_rows": 0,
    "forget_coef": 1.0,
    "retain_coef": 1.0,
    "kl_coef": 1.0,
    "forget_floor": 0.0,
    "answers": "none",
    "answers_coef": 1.0,
    "logit_lens_coef": 0.0,
    "prompt_dropout": 0.0,
    "retain_bound": None,
    "negate": False,
    "damping": 0.0,
    "auto_lr": False,
    "max_steps": 150,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch",
    "optim_args": None,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
}

SUMMED: dict[str, Any] = {"retain_loss": "nll", "combine": "weighted_sum"}

# Our three methods pull until each token meets its target. NLUL and UCE die before most targets, and gradient ascent starts late. The holdout is kept
# where it was: otherwise it sinks with the forget set, which would then have to sink further (docs/concepts/early-stopping.md).
WITH_TARGETS: dict[str, Any] = {
    "forget_loss": "log_odds",
    "forget_loss_args": {},
    "forget_coef": 1.0,  # at .1 the mean teacher had forgotten nothing of a TOFU model after 200 steps: the KL on the holdout outweighs it
    "forget_floor": 0.0,
    "holdout_kl": "reference",
    "neutral_rows": 48,  # without them neutral text of a 135M chat model moved by .19 nats a token in 20 steps, with them by .03 (docs/log.md)
    "answers": "natural",
    "prompt_dropout": 0.3,
    "logit_lens_coef": 0.3,  # it acts where an inner layer knows more than the last one shall, and nowhere else
    "max_steps": 5000,  # a bound: a run ends where it has reached its targets, or no longer comes nearer
    "lr_scheduler_type": "constant",  # until it is near its targets (training/pace.py)
}


def _retained(help: str, paper: str, **settings: Any) -> Method:
    """Another forget loss, summed with the retain cross-entropy."""
    return Method(help, SUMMED | settings, (paper,))


def _combined(help: str, paper: str, combine: str) -> Method:
    """Another combiner, of gradient ascent and the retain cross-entropy."""
    return Method(help, {"forget_loss": "ga", "retain_loss": "nll", "combine": combine}, (paper,))


OWN: dict[str, Method] = {
    "mean_teacher": Method(
        "mean teacher with the negative log-unlikelihood",
        # Leave the text while the KL to a slow copy of the adapter holds everything else.
        {
            "forget_loss": "nlul",
            "forget_loss_args": {"tol": 0.02},
            "forget_coef": 0.1,
            "retain_kl": "teacher",
            "combine": "weighted_sum",
            "teacher_decay": 0.995,
            "forget_floor": 0.02,
        },
        ("2504.13388",),
        WITH_TARGETS,
    ),
    "ngdiff": Method(
        "normalized gradient difference with an automatic learning rate",
        {
            "forget_loss": "ga",
            "forget_floor": 0.02,
            "retain_loss": "nll",
            "combine": "ngdiff",
            "auto_lr": True,
            "max_grad_norm": 0.0,  # the direction has norm sqrt(2 - 2 cos), about 1.4: a clip at 1 would bind on every step
        },
        ("2410.22086",),
        WITH_TARGETS,
    ),
    "mollm": Method(
        "multi-objective unlearning along a common descent direction",
        {
            "forget_loss": "uce",
            "forget_floor": 0.02,
            "retain_loss": "nll",
            "retain_kl": "reference",
            "combine": "mollm",
            "max_grad_norm": 0.0,
        },
        ("2412.20412",),
        # Cross-entropy alone would teach rows to keep that are not known by heart: .60 of a token's probability rose to .69 to .77 (docs/log.md).
        {**WITH_TARGETS, "retain_loss": "hinge"},
    ),
    # Baselines (docs/concepts/methods.md), with the parameters of their public code.
    "graddiff": _retained("gradient difference", "2203.12817", forget_loss="ga"),
    "npo": _retained("negative preference optimization", "2404.05868", forget_loss="npo", forget_loss_args={"beta": 0.1}),
    "simnpo": _retained(
        "negative preference optimization without a reference",
        "2410.07163",
        forget_loss="simnpo",
        forget_loss_args={"beta": 4.5},
        forget_coef=0.125,
    ),
    "dpo": _retained(
        "direct preference optimization towards other answers",
        "2305.18290",
        forget_loss="dpo",
        forget_loss_args={"beta": 0.1},
        answers="column",
    ),
    "idkdpo": _retained(
        "direct preference optimization towards refusals",
        "2401.06121",
        forget_loss="dpo",
        forget_loss_args={"beta": 0.1},
        answers="refuse",
    ),
    "ihl": _retained("inverted hinge loss", "2408.06621", forget_loss="ihl"),
    "wga": _retained("weighted gradient ascent", "2502.19301", forget_loss="wga", forget_loss_args={"beta": 1.0}),
    "satimp": _retained(
        "ascent weighted by saturation and importance",
        "2505.11953",
        forget_loss="satimp",
        forget_loss_args={"beta1": 5.0, "beta2": 1.0},
        forget_coef=0.1,
    ),
    "undial": _retained("self-distillation from adjusted logits", "2402.10052", forget_loss="undial", forget_loss_args={"beta": 10.0}),
    "ceu": _retained("cross-entropy to the model's own choice without the true token", "2503.01224", forget_loss="ceu"),
    "rmu": _retained("representation misdirection", "2403.03218", forget_loss="rmu", forget_loss_args={"scale": 2.0}, retain_loss="hidden"),
    "pdu": _retained(
        "flat logits under a constraint on the retain loss, primal-dual", "2506.05314", forget_loss="logit_margin", retain_bound=0.05
    ),
    "task_arithmetic": Method(
        "training on the forget set, then negating the adapter",
        {"forget_loss": "nll", "negate": True, "combine": "weighted_sum", "max_steps": 30},
        ("2212.04089",),
    ),
    "gru": _combined("the forget gradient rectified where it conflicts with the retain side", "2503.09117", "gru"),
    "blur": _combined("bi-level unlearning, forgetting below and retention above", "2506.08164", "blur"),
    "mgda": _combined("the common descent direction of least norm", "1810.04650", "mgda"),
    "pcgrad": _combined("gradients projected off those they conflict with", "2001.06782", "pcgrad"),
}


class Methods(Mapping[str, Method]):
    """All methods by name: our own, and after them those of other packages, which are imported when the first is asked for."""

    @cached_property
    def _all(self) -> dict[str, Method]:
        found = dict(OWN)
        for point in entry_points(group="peft_unlearn.methods"):
            refuse_double(point, found)
            try:
                method = point.load()
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"{point.name}: the entry point {point.value} cannot be read ({error}); mend or remove that package."
                ) from error
            if not isinstance(method, Method):
                raise UserError(f"{point.name}: {point.value} is no Method; mend or remove that package.")
            found[point.name] = method
        return found

    def __getitem__(self, name: str) -> Method:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


METHODS = Methods()
# What `method: auto` stands for: with `stop_at` it ends where a never-seen model is in every test bed of docs/studies/study.md, as no
# baseline does at its defaults, nor in two test beds of six at the best of a sweep, and keeps the retain set as useful as it was.
AUTO = "mollm"
OURS = tuple(name for name, method in OWN.items() if method.with_targets)


def defaults(method: str, stop_at: str = "none") -> dict[str, Any]:
    """Every value that `method` decides: its own over the common ones, and with `stop_at` what targets need over those."""
    chosen = METHODS[method]
    return {**COMMON, **chosen.settings, **(chosen.with_targets if stop_at != "none" else {})}


def learning_rate(parameters: int, *, falling: bool = False) -> float:
    """The learning rate of a recipe that names none, for a base of so many parameters: 1e-3 up to a million, then falling with the fourth root.

    Twice that where it falls: by a linear schedule, or with `stop_at` near the targets.

    1e-3 is measured on bases of .3 and .9 million parameters (docs/studies/defaults.md). From there the line goes to what public LoRA unlearning runs
    use: it gives 1.8e-4 for 1B and 1.1e-4 for 8B, and between them it is not measured.
    """
    return float((2e-3 if falling else 1e-3) * min(1.0, (1e6 / parameters) ** 0.25))
