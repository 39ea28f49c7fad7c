"""A method is data: a named set of defaults for the knobs of `UnlearnConfig`.

What a recipe does not say comes from its method, and from nowhere else. docs/defaults.md tells how each number was found.
"""

from typing import Any

COMMON: dict[str, Any] = {
    "forget_loss_args": {},
    "retain_loss": "none",
    "retain_kl": "none",
    "holdout_kl": "none",
    "forget_coef": 1.0,
    "retain_coef": 1.0,
    "kl_coef": 1.0,
    "forget_floor": 0.0,
    "alternate": "none",
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

METHODS: dict[str, dict[str, Any]] = {
    # Mean teacher with NLUL (arXiv 2504.13388): leave the text while the KL to a slow copy of the adapter holds everything else.
    "mean_teacher": {
        "forget_loss": "nlul",
        "forget_loss_args": {"tol": 0.02},
        "forget_coef": 0.1,
        "retain_kl": "teacher",
        "combine": "weighted_sum",
        "teacher_decay": 0.995,
        "forget_floor": 0.02,
    },
    # Normalised gradient difference with an automatic learning rate (arXiv 2410.22086).
    "ngdiff": {
        "forget_loss": "ga",
        "forget_floor": 0.02,
        "retain_loss": "nll",
        "combine": "ngdiff",
        "auto_lr": True,
        "max_grad_norm": 0.0,  # the direction has norm sqrt(2 - 2 cos), about 1.4: a clip at 1 would bind on every step
    },
    # Several objectives, one common descent direction (arXiv 2412.20412).
    "mollm": {
        "forget_loss": "uce",
        "forget_floor": 0.02,
        "retain_loss": "nll",
        "retain_kl": "reference",
        "combine": "mollm",
        "max_grad_norm": 0.0,
    },
    # Peers (docs/methods.md): the forget losses of others, each with the retain cross-entropy.
    "graddiff": {"forget_loss": "ga", **SUMMED},
    "npo": {"forget_loss": "npo", "forget_loss_args": {"beta": 0.1}, **SUMMED},
    "simnpo": {"forget_loss": "simnpo", "forget_loss_args": {"beta": 4.5}, "forget_coef": 0.125, **SUMMED},
    "dpo": {"forget_loss": "dpo", "forget_loss_args": {"beta": 0.1}, "alternate": "column", **SUMMED},
    "idkdpo": {"forget_loss": "dpo", "forget_loss_args": {"beta": 0.1}, "alternate": "refusals", **SUMMED},
    "ihl": {"forget_loss": "ihl", **SUMMED},
    "wga": {"forget_loss": "wga", "forget_loss_args": {"beta": 1.0}, **SUMMED},
    "satimp": {"forget_loss": "satimp", "forget_loss_args": {"beta1": 5.0, "beta2": 1.0}, "forget_coef": 0.1, **SUMMED},
    "undial": {"forget_loss": "undial", "forget_loss_args": {"beta": 10.0}, **SUMMED},
    "ceu": {"forget_loss": "ceu", **SUMMED},
    "rmu": {"forget_loss": "rmu", "forget_loss_args": {"scale": 2.0}, "retain_loss": "hidden", "combine": "weighted_sum"},
    "pdu": {"forget_loss": "logit_margin", "retain_bound": 0.05, **SUMMED},
    "task_arithmetic": {"forget_loss": "nll", "negate": True, "combine": "weighted_sum", "max_steps": 30},
    # Peers' combiners, on gradient ascent and the retain cross-entropy.
    "gru": {"forget_loss": "ga", "retain_loss": "nll", "combine": "gru"},
    "blur": {"forget_loss": "ga", "retain_loss": "nll", "combine": "blur"},
    "mgda": {"forget_loss": "ga", "retain_loss": "nll", "combine": "mgda"},
    "pcgrad": {"forget_loss": "ga", "retain_loss": "nll", "combine": "pcgrad"},
}


# What `method: auto` stands for: with `stop_at` it ends where a never-seen model is in every world of docs/study.md, as no peer does at its
# defaults, nor in two worlds of six at the best of a sweep, and keeps the retain set as useful as it was.
AUTO = "mollm"
OURS = ("mean_teacher", "ngdiff", "mollm")

# With stop_at, the founding methods pull until a level is met: NLUL and UCE die before most levels, gradient ascent starts late. And what was
# never seen is held where it was, or it sinks with the forget set, which would then have to sink further (docs/levels.md).
WITH_TARGETS: dict[str, Any] = {
    "forget_loss": "log_odds",
    "forget_loss_args": {},
    "forget_coef": 1.0,  # at .1 the mean teacher had forgotten nothing of a TOFU world after 200 steps: the held holdout outweighs it
    "forget_floor": 0.0,
    "holdout_kl": "reference",
    "max_steps": 200,
    "lr_scheduler_type": "linear",  # what still swings at the end, is noise of the rate
}


def defaults(method: str, stop_at: str = "none") -> dict[str, Any]:
    """Every knob's value under `method`, the method's own over the common ones, and with `stop_at` what landing needs over those."""
    return COMMON | METHODS[method] | (WITH_TARGETS if stop_at != "none" and method in OURS else {})


def learning_rate(parameters: int, *, falling: bool = False) -> float:
    """The learning rate of a recipe that names none, for a base of so many parameters: 1e-3 up to a million, then falling with the fourth root.

    Twice that where a linear schedule takes it down to 0.

    1e-3 is measured on bases of .3 and .9 million parameters (docs/defaults.md). From there the line goes to what public LoRA unlearning runs
    use: it gives 1.8e-4 for 1B and 1.1e-4 for 8B, and between them it is not measured.
    """
    return (2e-3 if falling else 1e-3) * min(1.0, (1e6 / parameters) ** 0.25)
