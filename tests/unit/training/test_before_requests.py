"""A run on top of earlier requests: they are active in all that it trains, and its reference is the user's own LoRA without them."""

import copy
import json

import pytest
import torch
from adapted import LORA, logits, stir
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from test_trainer import build
from test_trainer_equivalence import HOLDOUT, RETAIN
from tiny_models import tiny_llama
from word_rows import row

from peft_unlearn import data
from peft_unlearn.merging import combining
from peft_unlearn.model import adapters
from peft_unlearn.training import answers
from peft_unlearn.training.held import unchanged
from peft_unlearn.util.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The user's own LoRA, an earlier request's, and one that is the sum of both, written by plain PEFT and by `combine`."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("own", "earlier"), start=3):
        model = get_peft_model(tiny_llama(), copy.deepcopy(LORA))
        stir(model, "default", seed)
        model.save_pretrained(folder / name)
    both = combining.combined({name: combining.read(folder / name) for name in ("own", "earlier")})
    combining.write(both, folder / "both")
    return folder


def dense(*adapters):
    """The base with W + alpha / r B A in place of each W that the adapters change."""
    model = tiny_llama()
    for folder in adapters:
        config, tensors = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")
        for name, a in tensors.items():
            if name.endswith("lora_A.weight"):
                module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight.data += config["lora_alpha"] / config["r"] * tensors[name.replace("lora_A", "lora_B")] @ a
    return model


@pytest.fixture
def stacked(folders):
    model = PeftModel.from_pretrained(tiny_llama(), folders / "both", adapter_name="finetune")
    model.load_adapter(folders / "own", "reference")
    return model


def test_the_fewer_are_held_in_more_copies():
    parts = [Dataset.from_list([row([1, 5], [number, 2])] * count) for number, count in ((7, 8), (9, 48), (11, 4))]
    found = [ids[2] for ids in unchanged(*parts)["input_ids"]]
    assert {number: found.count(number) for number in set(found)} == {7: 48, 9: 48, 11: 48}
    assert unchanged(parts[0]) is parts[0]


def test_each_view_is_the_dense_sum_of_its_adapters(stacked, folders, tmp_path):
    model = adapters.attach(stacked, copy.deepcopy(LORA), teacher=True)
    own, both = logits(dense(folders / "own")), logits(dense(folders / "own", folders / "earlier"))
    assert not torch.allclose(own, both, atol=0.1)
    expected = {"reference": own, "given": both, "student": both, "teacher": both, "never_seen": logits(tiny_llama())}
    for name, there in expected.items():
        with adapters.view(model, name):
            assert torch.allclose(logits(model), there, atol=1e-5)
    stir(model, "default", 5)
    adapters.export(model, tmp_path / "new")
    assert torch.allclose(logits(model), logits(dense(folders / "own", folders / "earlier", tmp_path / "new")), atol=1e-5)
    with adapters.view(model, "reference"):
        assert torch.allclose(logits(model), own, atol=1e-5)


def test_what_retain_rows_are_held_to_is_the_own_lora_alone(stacked, folders, tmp_path):
    trainer = build(tmp_path, "mollm", model=stacked, holdout_dataset=HOLDOUT, holdout_kl="reference")
    first = RETAIN[0]
    kept = trainer._references.at("reference", "retain", [0], 10 * len(RETAIN), torch.device("cpu"))
    with torch.no_grad():
        there = dense(folders / "own")(torch.tensor([first["input_ids"]])).logits[0]
    labels = [place for place, label in enumerate(first["labels"][1:]) if label != -100]
    assert torch.allclose(kept.head.logits(kept.states), there[labels], atol=1e-4)
    before = {name: p.detach().clone() for name, p in stacked.named_parameters()}
    trainer.train()
    moved = {name for name, p in stacked.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(".default." in name for name in moved)


def test_what_is_forgotten_already_is_held_as_it_is_given(stacked, folders, tmp_path):
    some = [row([1, 7, 9, 11], [40 + i, 50, 2]) for i in range(3)]
    sets = [Dataset.from_list(some[:2]), Dataset.from_list([{"prompt": "w5 w6", "completion": " w7 w8"}])]
    trainer = build(tmp_path, "mollm", model=stacked, forgotten_datasets=sets, holdout_kl="reference")
    found = list(trainer.trained["holdout"]["input_ids"])
    assert found[:2] == [one["input_ids"] for one in some[:2]]
    assert found[2][-4:] == [6, 7, 8, 2]
    assert "holdout" not in trainer.sets
    kept = trainer._references.at("given", "holdout", [1], 1000, torch.device("cpu"))
    with torch.no_grad():
        there = dense(folders / "own", folders / "earlier")(torch.tensor([some[1]["input_ids"]])).logits[0, 3:-1]
    assert torch.allclose(kept.head.logits(kept.states), there, atol=1e-4)
    (held,) = (objective for objective in trainer.objectives if objective.stream == "holdout")
    assert held.anchor == "given"
    trainer._references.kept.clear()
    asked, view = [], adapters.view

    def seen(model, name):
        asked.append(name)
        return view(model, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "view", seen)
        trainer.train()
    assert {"given", "reference"} <= set(asked)
    free = build(tmp_path, "mollm", model=tiny_llama(), forgotten_datasets=sets, holdout_kl="none")
    assert "holdout" not in free.trained


def test_a_run_waits_for_the_retain_rows_as_the_own_lora_has_them(stacked, folders, tmp_path):
    trainer = build(tmp_path, model=stacked, stop_at="never_seen", holdout_dataset=HOLDOUT)
    own, found = dense(folders / "own"), []
    for one in RETAIN:
        with torch.no_grad():
            logps = own(torch.tensor([one["input_ids"]])).logits[0].log_softmax(-1)
        found.append(torch.stack([logps[i, label] for i, label in enumerate(one["labels"][1:]) if label != -100]).mean().exp())
    assert trainer.early_stop.retain == pytest.approx(float(torch.stack(found).mean()), rel=1e-4)


def test_texts_and_answers_are_written_by_the_model_that_has_forgotten_already(stacked, tmp_path, monkeypatch):
    asked = []

    def written(model, *arguments, **settings):
        asked.append(list(model.base_model.active_adapters))
        return [{"text": "w5 w6 w7 w8"}] * 4

    def answered(model, *arguments, **settings):
        asked.append(list(model.base_model.active_adapters))
        return [None] * 16

    monkeypatch.setattr(data, "write_rows", written)
    monkeypatch.setattr(answers, "of_model_itself", answered)
    words = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 2} w{i + 3}"} for i in range(5, 21)])
    build(tmp_path, model=stacked, forget_dataset=words, retain_dataset=None, answers="natural", neutral_rows=4, holdout_kl="reference")
    assert asked == [["finetune"]] * 3


def test_a_reference_alone_is_nothing_to_stack_on(folders):
    model = PeftModel.from_pretrained(tiny_llama(), folders / "own", adapter_name="reference")
    with pytest.raises(UserError, match='"finetune"'):
        adapters.attach(model, copy.deepcopy(LORA))
