import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from cli_world import no_model, recipe, world  # noqa: F401


def pytest_collection_finish():
    """Every run ends with a full collection, which over the imported libraries takes as long as the run itself: leave those out."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread_each():
    """Tiny models are slower on more threads."""
    torch.set_num_threads(1)
