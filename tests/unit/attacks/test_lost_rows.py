"""A row that the model gave NaN for: an audit says so, before and after it is written and read again, and takes no mean over the others."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from peft_unlearn import report
from peft_unlearn.attacks.membership import membership
from peft_unlearn.attacks.sanity import sanity
from peft_unlearn.benchmarks import How
from peft_unlearn.benchmarks.measuring import compare_membership
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.membership import SIGNS
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.model import adapters
from peft_unlearn.workflows.kept import Progress

NAMES = (*SIGNS, "extraction_strength")


def evaluation(seed, lost=False):
    values = np.random.default_rng(seed).random((len(NAMES), 5))
    if lost:
        values[:, 2] = math.nan
    return Evaluation({name: [*row, None] for name, row in zip(NAMES, values.tolist(), strict=True)}, [])


@pytest.fixture
def views(tmp_path):
    """Three views as an interrupted audit reads them again; a forget row of "after" and a holdout row of "before" are lost."""
    sets = {
        "before": {"forget": evaluation(0), "holdout": evaluation(1, lost=True)},
        "after": {"forget": evaluation(2, lost=True), "holdout": evaluation(3)},
        "never_seen": {"forget": evaluation(4), "holdout": evaluation(5)},
    }
    progress = Progress(tmp_path / "new" / "audit.json", "key")
    progress.views.update({view: {name: dict(found) for name, found in of_view.items()} for view, of_view in sets.items()})
    progress.write()
    return Progress(progress.path, "key").views


def test_an_audit_that_goes_on_still_knows_which_rows_are_lost(views):
    assert [math.isnan(value) for value in views["after"]["forget"]["loss"]["rows"][:5]] == [False, False, True, False, False]
    assert views["after"]["forget"]["loss"]["rows"][5] is None
    forget, holdout = (Evaluation({}, []) for _ in range(2))
    forget.update(views["after"]["forget"])
    holdout.update(views["after"]["holdout"])
    compare_membership(forget, holdout, None, How())
    made = report.build({"forget": {"after": forget}}, run={})["results"]["forget"]["after"]
    for name in ("loss", "extraction_strength"):
        assert made[name]["mean"] is None
        assert made[name]["reason"] == "the model's numbers are not finite in 1 of 5 rows"
    for name in (*(f"{name}_auc" for name in SIGNS), "priv_leak"):
        assert made[name]["mean"] is None
        assert made[name]["reason"] == "the model's numbers are not finite in 1 of 10 rows"


PROBES = {name: Probe(rows=Dataset.from_list([]), variants={}) for name in ("forget", "holdout")}


def test_no_auc_of_an_attack_is_of_the_rows_that_remain(views):
    found = {entry["metric"]: entry for entry in membership(SimpleNamespace(probes=PROBES, plain=views, view="after", groups=()))}
    assert {name: entry["mean"] for name, entry in found.items()} == dict.fromkeys((*(f"{name}_auc" for name in SIGNS), "loss_rise_auc"))
    whole = {**views, "after": {**views["after"], "forget": dict(evaluation(2))}}  # the holdout is lost without the adapter alone
    found = {entry["metric"]: entry["mean"] for entry in membership(SimpleNamespace(probes=PROBES, plain=whole, view="after", groups=()))}
    assert found.pop("loss_rise_auc") is None
    assert None not in found.values()


@pytest.mark.parametrize("broken", ["before", "never_seen"])
def test_a_gap_to_a_lost_row_is_not_told(broken, monkeypatch):
    strength = {view: {"forget": dict(evaluation(0, lost=view == broken))} for view in ("before", "never_seen")}
    monkeypatch.setattr("peft_unlearn.attacks.sanity.lora_layers", lambda model: {})
    model = SimpleNamespace(peft_config={adapters.STUDENT: SimpleNamespace(init_lora_weights="other")})
    (gap,) = (entry for entry in sanity(SimpleNamespace(adapted=model, start=None, plain=strength)) if entry["metric"] == "gap")
    assert gap["mean"] is None
