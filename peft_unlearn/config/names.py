"""What can be named in a recipe, known without torch: tests/test_startup.py holds each table to what `losses`, `combine` and `deployed` have."""

# Forget losses, each with its own parameters and their defaults.
LOSSES: dict[str, dict[str, float | bool]] = {
    "ga": {},
    "nll": {},
    "nlul": {"tol": 0.02},
    "uce": {},
    "log_odds": {"tol": 0.02},
    "npo": {"beta": 0.1, "mean": False},
    "simnpo": {"beta": 4.5, "gamma": 0.0},
    "dpo": {"beta": 0.1},
    "ihl": {},
    "wga": {"beta": 1.0},
    "satimp": {"beta1": 5.0, "beta2": 1.0},
    "undial": {"beta": 10.0},
    "ceu": {},
    "rmu": {"scale": 2.0},
    "logit_margin": {},
}
# Those whose gradient lowers the log-probability of the forget rows, as `stop_at` needs. nll raises it; rmu and logit_margin go elsewhere.
LOWERING = tuple(name for name in LOSSES if name not in ("nll", "rmu", "logit_margin"))
ALTERNATE = ("dpo",)  # those that need an alternate answer

# The same of `losses.openunlearning`: what is not here, is not there.
OPENUNLEARNING: dict[str, dict[str, float | bool]] = {
    "ga": {},
    "nll": {},
    "npo": {"beta": 0.1},
    "simnpo": {"beta": 4.5, "delta": 0.0},
    "dpo": {"beta": 0.1},
    "wga": {"beta": 1.0},
    "satimp": {"beta1": 5.0, "beta2": 1.0},
    "undial": {"beta": 10.0},
    "ceu": {"skip": 1},
    "rmu": {"scale": 2.0},
    "logit_margin": {},
}

COMBINERS = ("weighted_sum", "ngdiff", "mollm", "gru", "blur", "mgda", "pcgrad")
QUANTISERS = ("nf4", "int8")

# Inits that leave the base's weights and outputs as they are; PiSSA, OLoRA, CorDA and LoftQ rewrite the base (measured: logits off by 1.1-1.3).
KEEPS_BASE = (True, "gaussian", "orthogonal")
