"""Where the memory is out, a step is taken again in smaller micro-batches, and comes to the same."""

import logging

import pytest
import torch
from test_trainer import build
from test_trainer_equivalence import HOLDOUT, difference, never_seen

from peft_unlearn.training.accumulation import pieces
from peft_unlearn.util.errors import UserError


def tight(trainer, rows, from_step=0, spared=0):
    """Have no memory for a forward with gradients on more rows, from a step on and but for the first ones of it."""
    passed = []

    def hook(module, args, kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        taken = int((kwargs["position_ids"] == 0).sum()) if "position_ids" in kwargs else len(ids)
        if torch.is_grad_enabled() and trainer.state.global_step >= from_step and taken > rows:
            passed.append(1)
            if len(passed) > spared:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.model.register_forward_pre_hook(hook, with_kwargs=True)
    return trainer


RUNS = {
    "mean_teacher": {"forget_floor": 0.02},
    "ngdiff": {"auto_lr_steps": 1},
    "mollm": {"sam_rho": 0.1, "stop_at": "never_seen", "never_seen_model": never_seen(), "holdout_dataset": HOLDOUT},
    "idkdpo": {"answers": "column"},
}


@pytest.mark.parametrize("method", [m if m == "ngdiff" else pytest.param(m, marks=pytest.mark.long) for m in RUNS])
def test_a_run_without_memory_for_its_micro_batches_ends_where_one_with_smaller_ones_does(method, tmp_path, caplog):
    """What is out shows in the fifth forward of the second step: two micro-batches of 4 rows are in the sums by then."""
    small = build(tmp_path, method, size=2, accumulation=8, **RUNS[method])
    small.train()
    with caplog.at_level(logging.WARNING):
        cut = tight(build(tmp_path, method, size=4, accumulation=4, **RUNS[method]), 2, from_step=1, spared=4)
        cut.train()
    assert difference(cut.student, small.student) < 1e-6
    assert "the memory is too small for 4 rows at step 2; from here on micro-batches have 2, and 8 make a step" in caplog.text
    assert cut.components.by_key()["per_device_train_batch_size"].state_dict() == {"rows": torch.tensor(2)}
    logged = [[line[name] for line in run.state.log_history if name in line] for run in (cut, small) for name in ("loss", "p/retain")]
    assert logged[0] == pytest.approx(logged[2], rel=1e-4, abs=1e-7)
    assert logged[1] == pytest.approx(logged[3], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (0, {}, "per_device_train_batch_size: the GPU's memory is too small for one row; write gradient_checkpointing: true"),
        (
            2,
            {"definitions": "openunlearning"},
            "OpenUnlearning's losses are means over a micro-batch, so that none can be cut; .* fewer rows",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_sentence(rows, changes, message, tmp_path):
    trainer = tight(build(tmp_path, "graddiff", size=4, **changes), rows)
    with pytest.raises(UserError, match=message):
        trainer.train()


def test_pieces_hold_each_row_once_with_its_places(tmp_path):
    trainer = build(tmp_path, "graddiff", size=5)
    batch = trainer.collate([trainer.train_dataset[n] for n in range(5)])
    found = list(pieces(batch, 2))
    assert [len(piece["forget"]["labels"]) for piece in found] == [2, 2, 1]
    for stream, whole in batch.items():
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(torch.cat([piece[stream][name] for piece in found]), whole[name])
        assert [row for piece in found for row in piece[stream]["rows"]] == whole["rows"]
        width = whole["labels"].shape[1]
        places = torch.cat([piece[stream]["places"] + i * 2 * width for i, piece in enumerate(found)])
        assert torch.equal(places, whole["places"])
    assert next(pieces(batch, 5)) is batch
