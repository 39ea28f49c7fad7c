"""Two processes that share a batch take the step that one process takes on the whole of it, and find what one finds by itself.

Up to the rounding of matrix products, which goes by the rows that are in one; to the bit where one process takes the same micro-batches.
"""

from functools import partial
from pathlib import Path

import forked
import pytest
import torch
from test_damage import spoil
from test_trainer import build
from test_trainer_equivalence import FLOOR, FORGET, HOLDOUT, PREFERRED, RETAIN, difference, flat, never_seen, stirred, trained
from tiny_models import tiny_llama

from peft_unlearn import metrics
from peft_unlearn.config import methods
from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.model import adapters, generation
from peft_unlearn.model.sharing import sharing

# Where AutoLR does move the rate. With Adam it is the same two runs, told apart 1e3 times as much: it lifts rounding to full steps.
PROBED = {"auto_lr": True, "auto_lr_max": 100.0, "learning_rate": 0.3, "forget_coef": 0.1, "optim": "sgd", "optim_args": "momentum=0.9"}
# Two processes of 4 rows, or of 2 rows accumulated twice, are one batch of 8.
RUNS = {
    "mean_teacher": {"method": "mean_teacher", "forget_floor": FLOOR, "damping": 1.0, "max_grad_norm": 0.01},
    "ngdiff": {"method": "ngdiff", "forget_floor": 0.0, **PROBED},
    "mollm": {"method": "mollm", "forget_floor": FLOOR, "sam_rho": 0.1},
    "early stopping": {"method": "graddiff", "stop_at": "never_seen", "holdout": HOLDOUT},  # it checks after the first step
}
# 13 rows of the 16: 8 and 5, of which the second process has 1, or in two micro-batches 1 and none; and a batch of 3, of which it has none.
UNEVEN = {
    "mean_teacher, 13 rows": (13, (4, 1), {"method": "mean_teacher", "forget_floor": FLOOR}),
    "ngdiff, 13 rows": (13, (2, 2), {"method": "ngdiff", "forget_floor": 0.0, **PROBED, "auto_lr_steps": 1}),
    "mollm, 11 rows": (11, (4, 1), {"method": "mollm", "forget_floor": FLOOR, "sam_rho": 0.1}),
}
# Two micro-batches of each process, or four of one, at Adam's own epsilon. Eager attention knows no packed rows, which are dealt by length then.
AUTO = {"method": methods.AUTO, "answers": "natural", "stop_at": "never_seen", "neutral_rows": 0, "holdout_dataset": HOLDOUT}
SAME = {
    "mollm": ("sdpa", 16, {"method": "mollm", "forget_floor": FLOOR, "sam_rho": 0.1}),
    "mean_teacher, padded": ("eager", 13, {"method": "mean_teacher", "forget_floor": FLOOR}),
    "auto, 13 rows": ("sdpa", 13, AUTO),
}
WITHIN = 3  # steps, of which two are an epoch
SPLIT = {"mean_teacher": (4, 1), "ngdiff": (2, 2), "mollm": (2, 2), "early stopping": (4, 1)}


def outcome(trainer) -> dict:
    names = {"loss", "grad_norm", "learning_rate", "p/forget", "loss/forget", "loss/retain", "grad_norm/forget", "weight/forget"}
    return {
        "student": [p.detach() for p in trainer.student],
        "teacher": [p.detach() for p in trainer.teacher.parameters] if trainer.teacher else [],
        "logged": [{k: v for k, v in line.items() if k in names} for line in trainer.state.log_history[:-1]],
        "rate": trainer.optimizer.param_groups[0]["lr"],
        "check": list(trainer.early_stop.last) if trainer.early_stop else [],
    }


def measured(trainer) -> tuple[list, int]:
    """All that an evaluation measures of the forget rows, and the tokens that this process has read for it."""
    read: list[int] = []
    hook = trainer.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: read.append(ids[0].numel()))
    found = metrics.evaluate(trainer.model, trainer.processing_class, FORGET, batch_size=2, lens=True)
    views = (partial(adapters.view, trainer.model, name) for name in ("reference", "student"))
    drawn = generation.sample(trainer.model, trainer.processing_class, FORGET, 2, batch_size=4)
    hook.remove()
    return [dict(found), found.answers, drawn, retain_kl(RETAIN, *views, batch_size=4)], sum(read)


def components_of(trainer) -> list:
    """What the run's components remember."""
    return [value for part in trainer.components.by_key().values() for value in part.state_dict().values()] or [torch.zeros(1)]


def uneven(folder: Path, count: int, **changes):
    """A run on some of the forget rows."""
    trainer = build(folder, **{"forget_dataset": FORGET.select(range(count)), "include_num_input_tokens_seen": "all", **changes})
    stirred(trainer)
    trainer.train()
    return trainer


def of_two(folder: Path, name: str, accumulation: int):
    """A run on micro-batches of two rows."""
    attention, count, changes = SAME[name]
    model = tiny_llama()
    model.set_attn_implementation(attention)
    if changes is AUTO:
        changes = {"forget_dataset": PREFERRED.select(range(count)), "never_seen_model": never_seen(), **changes}
    return uneven(folder, count, model=model, size=2, accumulation=accumulation, adam_epsilon=1e-8, **changes)


def main(folder: Path) -> None:
    """What each of the two processes does."""
    for name, changes in RUNS.items():
        size, accumulation = SPLIT[name]
        split = {"size": size, "accumulation": accumulation, **changes}
        trainer = trained(folder / name, save_strategy="steps", save_steps=WITHIN, **split)
        assert trainer.accelerator.num_processes == 2
        torch.save(outcome(trainer), folder / f"{name}-{trainer.accelerator.process_index}.pt")
        resumed = trained(folder / "resumed", resume_from=folder / name / f"checkpoint-{WITHIN}", **split)
        same = [torch.equal(flat(found(resumed)), flat(found(trainer))) for found in (lambda run: run.student, components_of)]
        torch.save(same, folder / f"{name}-resumed-{trainer.accelerator.process_index}.pt")
    for name, (count, (size, accumulation), changes) in UNEVEN.items():
        trainer = uneven(folder / name, count, size=size, accumulation=accumulation, **changes)
        torch.save(outcome(trainer), folder / f"{name}-{trainer.accelerator.process_index}.pt")
    for name in SAME:
        ended = of_two(folder / "same" / name, name, accumulation=2)
        torch.save(flat(ended.student), folder / f"{name}, same-{trainer.accelerator.process_index}.pt")
    own, read = measured(trainer)
    with sharing():
        shared, read_of_these = measured(trainer)
        assert repr(shared) == repr(own)  # of NaN as well
    torch.save([read, read_of_these], folder / f"shared-{trainer.accelerator.process_index}.pt")
    damaged = spoil(build(folder / "damaged", "mean_teacher", size=4), {3})
    damaged.train()
    torch.save([flat(damaged.student), damaged.components.damage.returned], folder / f"damaged-{damaged.accelerator.process_index}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # or gloo's threads may abort the process as it exits


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    program = "import pathlib, test_distributed; test_distributed.main(pathlib.Path.cwd())"
    both = forked.run(program, folder=folder, processes=2, ACCELERATE_USE_CPU="true")
    assert [done.returncode for done in both] == [0, 0], "\n".join(done.stderr[-3000:] for done in both)
    names = [*RUNS, *(f"{name}-resumed" for name in RUNS), *UNEVEN, *(f"{name}, same" for name in SAME), "damaged", "shared"]
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)] for name in names}


def assert_equal(first, second, whole):
    """Two processes have the same adapters, to the bit, and those and the log of one process."""
    for view in ("student", "teacher"):
        assert all(torch.equal(a, b) for a, b in zip(first[view], second[view], strict=True))
        if whole[view]:
            assert difference(first[view], whole[view]) < 1e-5
    for ours, theirs in zip(first["logged"], whole["logged"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(name, processes, tmp_path):
    first, second = processes[name]
    whole = outcome(trained(tmp_path, **RUNS[name]))
    assert_equal(first, second, whole)
    assert (first["rate"], first["check"]) == (second["rate"], second["check"])
    assert first["check"] == pytest.approx(whole["check"], rel=1e-4)
    assert first["rate"] == pytest.approx(whole["rate"], rel=1e-4)


@pytest.mark.parametrize("name", UNEVEN)
def test_an_uneven_last_batch_is_that_of_one_process(name, processes, tmp_path):
    count, _, changes = UNEVEN[name]
    first, second = processes[name]
    whole = outcome(uneven(tmp_path, count, **changes))
    assert_equal(first, second, whole)


@pytest.mark.parametrize("name", SAME)
def test_two_processes_end_to_the_bit_where_one_does_that_takes_their_micro_batches(name, processes, tmp_path):
    one = flat(of_two(tmp_path, name, accumulation=4).student)
    assert [torch.equal(end, one) for end in processes[f"{name}, same"]] == [True, True]


def test_what_two_processes_measure_together_is_to_the_bit_what_one_does_with_half_of_the_work_each(processes):
    (all_tokens, first), (_, second) = processes["shared"]
    assert first + second == pytest.approx(all_tokens, rel=0.01)  # each tries the head out by itself
    assert 0.4 < first / all_tokens < 0.6


def test_processes_go_back_together(processes):
    (first, went), (second, too) = processes["damaged"]
    assert torch.equal(first, second)
    assert went == too == [(3, 0)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_that_resume_within_an_epoch_end_bit_for_bit_where_uncut_ones_do(name, processes):
    assert processes[f"{name}-resumed"] == [[True, True], [True, True]]


def test_the_runs_that_are_compared_do_what_is_claimed_of_them(processes):
    assert processes["ngdiff"][0]["rate"] > 2 * PROBED["learning_rate"]  # the probe moved it
    assert all(line["grad_norm"] > 0.01 for line in processes["mean_teacher"][0]["logged"][1:])  # the clip binds
