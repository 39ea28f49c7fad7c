"""Two processes that share a batch take the step that one process takes on the whole of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_trainer_equivalence import FLOOR, difference, trained

RUNS = {
    "mean_teacher": {"method": "mean_teacher", "forget_floor": FLOOR},
    "ngdiff": {"method": "ngdiff", "forget_floor": FLOOR},
    "mollm": {"method": "mollm", "forget_floor": FLOOR, "accumulation": 2},
}


def state(trainer) -> dict:
    return {
        "student": [p.detach() for p in trainer.student],
        "teacher": [p.detach() for p in trainer.teacher],
        "history": trainer.state.log_history,
    }


def main(folder: Path) -> None:
    for name, changes in RUNS.items():
        trainer = trained(folder / name, size=4 // changes.get("accumulation", 1), **changes)
        torch.save(state(trainer), folder / f"{name}-{trainer.accelerator.process_index}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(folder)]
    done = subprocess.run(launch, env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)] for name in RUNS}


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(name, ranks, tmp_path):
    first, second = ranks[name]
    whole = state(trained(tmp_path, **RUNS[name] | {"accumulation": 1}))
    for view in ("student", "teacher"):
        for a, b in zip(first[view], second[view], strict=True):
            assert torch.equal(a, b)
        if whole[view]:
            print(name, view, difference(first[view], whole[view]))
            assert difference(first[view], whole[view]) < 1e-6
    print([h.get("learning_rate") for h in first["history"]], [h.get("learning_rate") for h in whole["history"]])
    print([h.get("loss") for h in first["history"]], [h.get("loss") for h in whole["history"]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
