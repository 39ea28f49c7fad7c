"""Names that OpenUnlearning gives sets in its configs/data/datasets, and where those are on the Hub."""

from typing import Any

TOFU, NEWS = "locuslab/TOFU", "muse-bench/MUSE-News"

DATASET_NAMES: dict[str, dict[str, Any]] = {
    "TOFU_QA_full": {"path": TOFU, "name": "full"},
    "TOFU_QA_forget": {"path": TOFU, "name": "forget10"},
    "TOFU_QA_retain": {"path": TOFU, "name": "retain90"},
    "TOFU_QA_holdout": {"path": TOFU, "name": "holdout10"},
    "TOFU_QA_forget_pert": {"path": TOFU, "name": "forget10_perturbed"},  # the other wordings are columns of its rows
    "TOFU_QA_retain_eval": {"path": TOFU, "name": "retain_perturbed"},
    "TOFU_QA_ra": {"path": TOFU, "name": "real_authors_perturbed"},
    "TOFU_QA_wf": {"path": TOFU, "name": "world_facts_perturbed"},
    "MUSE_forget": {"path": NEWS, "name": "raw", "split": "forget"},
    "MUSE_retain": {"path": NEWS, "name": "raw", "split": "retain1"},
    "MUSE_forget_knowmem": {"path": NEWS, "name": "knowmem", "split": "forget_qa"},
    "MUSE_retain_knowmem": {"path": NEWS, "name": "knowmem", "split": "retain_qa"},
}
