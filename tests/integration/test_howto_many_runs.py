"""The scripts of the page on many runs, as their engines run them."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from howto import blocks

from peft_unlearn.cli import main

SCRIPTS = {block.title: block.code for block in blocks("many-runs.md")}
# What a task of SkyPilot and its resources may have (docs.skypilot.co, reference/yaml-spec).
TASK = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes", "file_mounts", "setup", "run", "config", "service"}
RESOURCES = {
    "infra",
    "accelerators",
    "cpus",
    "memory",
    "use_spot",
    "disk_size",
    "disk_tier",
    "image_id",
    "ports",
    "any_of",
    "ordered",
    "job_recovery",
}
# Keeps the words that it gets, for the command line of this process to run.
KEEP = '#!/bin/bash\nprintf "%s\\0" "$@" > words\n'


@pytest.fixture
def place(bed, tmp_path, monkeypatch):
    """A folder with two recipes of a tiny model, their list, and the script of a Slurm array."""
    monkeypatch.chdir(tmp_path)
    sets = {"model_name_or_path": "base", "forget_dataset": "forget.jsonl", "retain_dataset": "retain.jsonl"}
    settings = {
        "method": "graddiff",
        "max_steps": 2,
        "use_cpu": True,
        "dtype": "float32",
        "lora_r": 4,
        "disable_tqdm": True,
        "eval_rows": 2,
    }
    Path("recipes").mkdir()
    for name, seed in (("first", 1), ("second", 2)):
        values = {key: str(bed / value) for key, value in sets.items()} | settings | {"seed": seed, "output_dir": "elsewhere"}
        Path("recipes", f"{name}.yaml").write_text(yaml.safe_dump(values))
    Path("recipes.txt").write_text("recipes/first.yaml\nrecipes/second.yaml\n")
    Path("many.sbatch").write_text(SCRIPTS["many.sbatch"])
    Path("bin").mkdir()
    Path("bin/peft-unlearn").write_text(KEEP)
    Path("bin/peft-unlearn").chmod(0o755)
    return tmp_path


def words_of(task: int) -> list[str] | None:
    """What a task of the array tells peft-unlearn; None where it does not call it."""
    Path("words").unlink(missing_ok=True)
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}"}
    subprocess.run(["bash", "many.sbatch"], env=environment, check=True)
    return Path("words").read_text().split("\0")[:-1] if Path("words").exists() else None


@pytest.mark.slow
def test_each_task_of_the_slurm_array_trains_its_recipe_once(place):
    for task, name in ((1, "first"), (2, "second")):
        words = words_of(task)
        assert words == ["train", f"recipes/{name}.yaml", "--output_dir", f"runs/{name}"]
        assert main(words) == 0
        assert words_of(task) is None  # it has ended
    adapters = [Path("runs", name, "adapter_model.safetensors").read_bytes() for name in ("first", "second")]
    assert adapters[0] != adapters[1]


@pytest.mark.slow
def test_a_task_that_was_cut_goes_on(place):
    words = words_of(1)
    assert main([*words, "--save_strategy", "steps", "--save_steps", "1"]) == 0
    for path in ("report.json", "adapter_config.json", "adapter_model.safetensors"):  # as if it had been cut before its end
        Path("runs/first", path).unlink()
    again = words_of(1)
    assert again == [*words, "--resume_from_checkpoint", "true"]
    assert main([*again, "--save_strategy", "steps", "--save_steps", "1"]) == 0
    assert words_of(1) is None


def test_the_scripts_are_bash():
    for script in (SCRIPTS["many.sbatch"], yaml.safe_load(SCRIPTS["many.yaml"])["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_task_of_skypilot_has_the_fields_of_its_specification():
    task = yaml.safe_load(SCRIPTS["many.yaml"])
    assert set(task) <= TASK
    assert set(task["resources"]) <= RESOURCES
    assert all(set(mount) <= {"name", "source", "store", "mode", "persistent"} for mount in task["file_mounts"].values())
    assert all(f"${name}" in task["run"] for name in task["envs"])
