"""`definitions: openunlearning`: the losses of a run are those of that code on each micro-batch, which a loop over positions computes here."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_losses_openunlearning import PLAIN, V, their_ceu, their_simnpo
from test_trainer import build
from test_trainer_equivalence import PREFERRED, flat
from tiny_models import tiny_llama

from peft_unlearn import UnlearnConfig
from peft_unlearn.data import collate_rows
from peft_unlearn.data.labels import kept_places, label_places
from peft_unlearn.losses import LOSSES
from peft_unlearn.model.logprobs import Dense, score
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.registry import OPENUNLEARNING, openunlearning_losses

# method: (its forget loss, as that code calls it)
METHODS = {
    "graddiff": "grad_ascent",
    "npo": "npo",
    "simnpo": "simnpo",
    "dpo": "dpo",
    "wga": "wga",
    "satimp": "satimp",
    "undial": "undial",
    "ceu": "ceu",
    "rmu": "rmu_forget",
    "pdu": "pdu",
    "task_arithmetic": "nll",
}


def run(folder, method, definitions="openunlearning", padding=0, size=8, **changes):
    """One step from an adapter that is not the reference, each micro-batch with `padding` more columns than its rows need."""
    given = {"definitions": definitions, "max_steps": 1, "size": size, "retain_kl": "reference", "negate": False, "data_seed": 3} | changes
    llama = tiny_llama(vocab=V)
    llama.lm_head.weight.data *= 4  # of certain opinions, or no loss would tell one position from another
    trainer = build(folder, method, model=llama, **given)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for p in trainer.student:
            p.data.add_(0.05 * torch.randn_like(p))
    collator = trainer.collate
    trainer.collate = lambda pairs: {stream: wider(batch, padding) for stream, batch in collator(pairs).items()}
    trainer.start = copy.deepcopy(trainer.model)
    trainer.train()
    trainer.losses = trainer.state.log_history[0]
    return trainer


def wider(batch, padding):
    padded = {
        key: wider(value, padding) if key == "alternate" else F.pad(value, (0, padding), value=-100 if key == "labels" else 0)
        for key, value in batch.items()
        if key not in ("places", "kept", "rows")
    }
    return {**batch, **padded, "places": label_places(padded["labels"]), "kept": kept_places(padded["labels"])}


def outputs(model, rows, padding=0):
    """Of rows padded to one length: labels, logits and the first layer's output at all positions."""
    width = max(len(row["input_ids"]) for row in rows) + padding
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    attention = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows])
    states = []
    hook = model.base_model.model.model.layers[0].register_forward_hook(lambda module, inputs, output: states.append(output))
    logits = model(input_ids=ids, attention_mask=attention).logits
    hook.remove()
    return {"labels": labels, "logits": logits, "hidden": states[0][0] if isinstance(states[0], tuple) else states[0]}


def readings(model, rows, padding=0):
    """What a loss of theirs reads of the rows and of their alternates: of the student as the run began, and of the reference."""
    given = {}
    for prefix, kind in (("", rows), ("alt_", [row["alternate"] for row in rows if "alternate" in row])):
        if kind:
            given |= {f"{prefix}{name}": value for name, value in outputs(model, kind, padding).items()}
            with model.disable_adapter(), torch.no_grad():
                given |= {f"{prefix}ref_{name}": value for name, value in outputs(model, kind, padding).items()}
    return given


@torch.no_grad()
def expected(trainer, stream, loss, *, size=8, batches=1, padding=0, **parameters):
    """The mean over micro-batches of their loss, in fp64."""
    found = []
    for start in range(0, size * batches, size):
        rows = [trainer.train_dataset[n][stream] for n in range(start, start + size)]
        given = readings(trainer.start, rows, padding)
        given = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
        found.append(float(loss(given, **parameters)))
    return sum(found) / batches


@pytest.mark.parametrize("method", METHODS)
def test_a_runs_losses_are_theirs(method, tmp_path):
    trainer = run(tmp_path, method)
    assert trainer.losses["loss/forget"] == pytest.approx(expected(trainer, "forget", PLAIN[METHODS[method]][1]), rel=1e-5)
    assert trainer.losses["loss/kl"] == pytest.approx(expected(trainer, "retain", PLAIN["kl_retain"][1]), rel=1e-5)
    retain = {"rmu": "rmu_retain", "task_arithmetic": None}.get(method, "nll")
    if retain is not None:
        assert trainer.losses["loss/retain"] == pytest.approx(expected(trainer, "retain", PLAIN[retain][1]), rel=1e-5)


@pytest.mark.parametrize("method", ["npo", "dpo", "undial", "ceu", "rmu", "pdu"])
def test_its_gradient_is_that_of_their_loss(method, tmp_path):
    trainer = run(tmp_path, method)
    model = trainer.start
    given = readings(model, [trainer.train_dataset[n]["forget"] for n in range(8)])
    loss = OPENUNLEARNING[METHODS[method]](*(given[name] for name in PLAIN[METHODS[method]][0]))
    student = [p for p in model.parameters() if p.requires_grad]
    gradient = flat(torch.autograd.grad(loss, student, materialize_grads=True))
    assert trainer.losses["grad_norm/forget"] == pytest.approx(gradient.norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "parameters", "loss"),
    [("simnpo", {"beta": 2.0, "delta": 0.7}, their_simnpo), ("ceu", {"skip": 0}, their_ceu)],
)
def test_their_parameters_reach_their_loss(method, parameters, loss, tmp_path):
    trainer = run(tmp_path, method, forget_loss_args=parameters)
    assert trainer.losses["loss/forget"] == pytest.approx(expected(trainer, "forget", loss, **parameters), rel=1e-5)


@pytest.mark.parametrize("method", ["npo", "wga", "undial", "rmu"])
def test_micro_batches_count_alike_however_long(method, tmp_path):
    whole, cut = run(tmp_path, method), run(tmp_path, method, size=4, accumulation=2)
    retain = "rmu_retain" if method == "rmu" else "nll"
    for name, stream, loss in (("forget", "forget", METHODS[method]), ("retain", "retain", retain), ("kl", "retain", "kl_retain")):
        theirs = expected(cut, stream, PLAIN[loss][1], size=4, batches=2)
        assert cut.losses[f"loss/{name}"] == pytest.approx(theirs, rel=1e-5)
        if stream == "retain":
            assert abs(cut.losses[f"loss/{name}"] / whole.losses[f"loss/{name}"] - 1) > 1e-4, name
    ours = [run(tmp_path, method, definitions="peft-unlearn", **split) for split in ({}, {"size": 4, "accumulation": 2})]
    for name in ("forget", "retain", "kl"):
        assert ours[0].losses[f"loss/{name}"] == pytest.approx(ours[1].losses[f"loss/{name}"], rel=1e-5)


@pytest.mark.parametrize("method", ["undial", "graddiff", "rmu"])
def test_padding_changes_their_undial_and_kl_and_nothing_else(method, tmp_path):
    narrow, wide = (run(tmp_path, method, padding=padding) for padding in (0, 20))
    ours = [run(tmp_path, method, definitions="peft-unlearn", padding=padding) for padding in (0, 20)]
    for name, depends in (("forget", method == "undial"), ("retain", False), ("kl", True)):
        changed = abs(wide.losses[f"loss/{name}"] / narrow.losses[f"loss/{name}"] - 1)
        assert changed > 1e-3 if depends else changed < 1e-5, name
        assert ours[1].losses[f"loss/{name}"] == pytest.approx(ours[0].losses[f"loss/{name}"], rel=1e-5)
    assert wide.losses["loss/kl"] == pytest.approx(expected(wide, "retain", PLAIN["kl_retain"][1], padding=20), rel=1e-5)


@pytest.mark.parametrize("method", ["graddiff", "npo", "wga", "satimp"])
def test_one_micro_batch_gives_the_same_run_where_the_definitions_agree(method, tmp_path):
    theirs, ours = (run(tmp_path, method, definitions, retain_kl="none", max_steps=3) for definitions in ("openunlearning", "peft-unlearn"))
    torch.testing.assert_close(flat(theirs.student), flat(ours.student), rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- what is read, and refused


def test_all_positions_are_kept_only_where_they_are_asked_for():
    model, batch = tiny_llama(vocab=V), collate_rows([PREFERRED[n] for n in range(3)], 0)
    assert score(model, batch).dense is None
    found = score(model, batch, 1, dense=True)
    for scores, rows in ((found, batch), (found.alternate, batch["alternate"])):
        out = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], output_hidden_states=True)
        assert torch.equal(scores.dense.logits, out.logits)
        assert torch.equal(scores.dense.hidden, out.hidden_states[1])
        assert torch.equal(scores.dense.labels, rows["labels"])
    assert found.dense.alternate is found.alternate.dense


def test_their_losses_need_of_a_run_what_ours_of_that_name_need():
    losses = openunlearning_losses("forget_loss")
    assert set(LOSSES) - set(losses) == {"nlul", "uce", "log_odds", "ihl"}
    for name, theirs in losses.items():
        ours = LOSSES[name]
        assert (theirs.reference, theirs.alternate, theirs.hidden) == (ours.reference, ours.alternate, ours.hidden)
        assert {read.removeprefix("alt_").removeprefix("ref_") for read in theirs.reads} <= set(Dense._fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "mean_teacher"},
            "^forget_loss: OpenUnlearning's code has no nlul, write nll, ga, .* or rmu, or leave definitions out",
        ),
        ({"forget_loss": "uce"}, "^forget_loss: .*no uce"),
        ({"forget_loss": "log_odds"}, "^forget_loss: .*no log_odds"),
        ({"method": "ihl"}, "^forget_loss: .*no ihl"),
        ({"stop_at": "auto"}, "^stop_at: .*no auto, write none, or leave definitions out"),
        ({"method": "ngdiff"}, "^forget_floor: .*no 0.02, write 0, or"),
        ({"retain_kl": "teacher", "teacher_decay": 0.99}, "^retain_kl: .*no teacher, write reference or none, or"),
        ({"retain_kl": "reference", "divergence": "qkl"}, "^divergence: .*no qkl, write kl, or"),
        (
            {"method": "simnpo", "forget_loss_args": {"gamma": 1.0}},
            "^forget_loss_args: simnpo has no parameter 'gamma', it takes beta, delta",
        ),
        ({"method": "ceu", "forget_loss_args": {"skip": 1.5}}, "^forget_loss_args.skip: 1.5 is not a whole number"),
        ({"method": "ceu", "forget_loss_args": {"skip": -1}}, "^forget_loss_args.skip: -1 is out of range"),
        ({"definitions": "theirs"}, "^definitions: 'theirs' is not one of peft-unlearn, openunlearning"),
    ],
)
def test_what_that_code_has_not_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        UnlearnConfig("out", use_cpu=True, **({"method": "graddiff", "definitions": "openunlearning"} | changes))


def test_their_parameters_are_none_of_ours():
    with pytest.raises(UserError, match="^forget_loss_args: simnpo has no parameter 'delta', it takes beta, gamma"):
        UnlearnConfig("out", use_cpu=True, method="simnpo", forget_loss_args={"delta": 1.0})
