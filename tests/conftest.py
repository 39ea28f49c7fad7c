import gc
import os
import signal
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models are slower on more threads, and a process that has them cannot be forked

import pytest
from cli_bed import bed, no_model, recipe  # noqa: F401

ROOT = Path(__file__).parent
# Folders and files whose tests load whole models or run whole commands: some nine tenths of the suite's time. `make fast` leaves them out.
SLOW = (
    "integration",
    "test_feature_matrix.py",
    "test_recipes.py",
    "unit/attacks",
    "unit/benchmarks",
    "unit/config/test_howto.py",
    "unit/merging",
    "unit/planning",
    "unit/training/test_early_stop_runs.py",
    "unit/workflows",
)


def _is_slow(path):
    return any(path.is_relative_to(ROOT / slow) for slow in SLOW)


def pytest_collection_modifyitems(items):
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Every run ends with a full collection, which over the imported libraries takes as long as the run itself: leave those out."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread_each():
    """Whatever a test has set."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def heard():
    """SIGINT is heard, also where the tests run in the background and a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _random_fingerprints():
    """To hash what is done to a set, a tokenizer and all, takes longer than to do it to a tiny one, and names a cache that none of ours reads."""
    from datasets import arrow_dataset, fingerprint

    with pytest.MonkeyPatch.context() as patch:
        for module in (arrow_dataset, fingerprint):
            patch.setattr(module, "update_fingerprint", lambda *_: fingerprint.generate_random_fingerprint())
        yield


@pytest.fixture(autouse=True, scope="module")
def _short_answers(request):
    """Most tiny models end no answer. Where whole commands ask them, answers run past their references by fewer tokens; their own texts are short."""
    from peft_unlearn.model import generation
    from peft_unlearn.training import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "NEUTRAL_LENGTH", 32)
        if _is_slow(request.path):
            patch.setattr(generation, "MARGIN", 3)
        yield
