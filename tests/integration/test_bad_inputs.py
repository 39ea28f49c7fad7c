"""Commands refuse what cannot be right in one sentence, leave nothing behind, and end. `benchmarks/bad_inputs.py` has all of the cases."""

import logging
import signal

import pytest

import bad_inputs
import fuzz
from hostile.bed import make_bed
from peft_unlearn.workflows import train_run

# What is refused before anything of the model is read, all of it; of the rest, which takes longer, some of each kind.
QUICK = ("recipe-file:", "value:forget_dataset", "value:eval_dataset", "value:output_dir", "value:max_steps", "value:seed", "value:save_steps",
         "value:lora_modules_to_save", "value:lora_target_modules", "value:gradient_checkpointing_kwargs", "value:accelerator_config",
         "value:lr_scheduler_kwargs", "value:never_seen_model", "value:optim_args", "value:chat_template_kwargs",
         "value:resume_from", "run-evaluate:recipe-", "run-audit:audit-json", "run-audit:report-json",
         "cli:evaluate lora --forget forget.jsonl --output", "cli:merge lora --output", "cli:plan r.yaml --per_device",
         "cli:demo", "gguf-merge:weights-", "gguf-merge:rope-", "gguf-merge:embedding_length-",
         "model-plan:hidden-0", "model-plan:heads-", "model-merge:index-", "adapter-merge:weights-", "data:gz-", "data:csv-")  # fmt: skip
CASES = [case for case in bad_inputs.cases() if case.name.startswith(QUICK) and not case.name.startswith(bad_inputs.RIGHT)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    make_bed(folder)
    return folder


@pytest.fixture
def watched(monkeypatch, request):
    """A clock that ends what hangs, and no training."""
    monkeypatch.setattr(train_run, "start", bad_inputs.loads)
    before = signal.signal(signal.SIGALRM, bad_inputs.alarmed)
    yield
    signal.signal(signal.SIGALRM, before)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_a_bad_input_is_refused_in_one_sentence(case, bed, watched, monkeypatch):
    monkeypatch.chdir(bed)
    found, said = bad_inputs.run(case, bed)
    assert found == "", said


@pytest.mark.parametrize("part", sorted(fuzz.PARTS.keys() - {"reports", "checkpoints"}))  # those are of a run that was made
def test_random_inputs_are_read_or_refused(part, tmp_path, watched, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = fuzz.Fuzz(tmp_path)
    made.run(part, inputs=8, number=0)
    assert made.inputs[part] >= 8
    assert made.found == {}
