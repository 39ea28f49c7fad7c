"""Every recipe of recipes/ trains and saves: its own keys, on a tiny random base, with sets of four rows, for two steps."""

import json
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_models import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from peft_unlearn.cli import main
from peft_unlearn.config.methods import AUTO

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(60))]
TEMPLATE = "{% for turn in messages %}{{ turn.content }} {% if turn.role == 'assistant' %}</s>{% endif %}{% endfor %}"
SETS = ("forget_dataset", "retain_dataset", "holdout_dataset")
MODELS = {"model_name_or_path": "base", "never_seen_model_name_or_path": "base", "adapter_name_or_path": "lora"}
# What a tiny run on a CPU cannot take over: how long, how many, and where.
SHORT = {"max_steps": 2, "max_length": 32, "eval_rows": 4, "lora_r": 4, "use_cpu": True}
STOPS = {"forget-my-own-jsonl": "none", "forget-on-my-lora": "never_seen", "forget-with-early-stopping": "auto"}  # with `method: auto`
FEW = ("cpu", "forget-my-own-jsonl", "forget-on-my-lora", "forget-with-early-stopping")
REPLACED = ("num_train_epochs", "eval_dataset", "output_dir")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random base, a LoRA on it, and sets of four rows: of texts, and of questions."""
    folder = tmp_path_factory.mktemp("tiny")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    for name in ("base", "lora"):
        tokenizer.save_pretrained(folder / name)
    tiny_llama().save_pretrained(folder / "base")
    lora = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    lora.peft_config["default"].base_model_name_or_path = str(folder / "base")
    lora.save_pretrained(folder / "lora")
    for start, name in enumerate(("forget", "retain", "holdout", "other")):
        rows = [[f"w{(start * 13 + row * 5 + i) % 60}" for i in range(8)] for row in range(4)]
        pairs = [{"question": " ".join(row[:4]), "answer": " ".join(row[4:])} for row in rows]
        texts = [{"text": " ".join(row)} for row in rows]
        for kind, lines in (("pairs", pairs), ("texts", texts)):
            (folder / f"{name}-{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shrunk(recipe: dict, tiny: Path, output: Path) -> dict:
    """The recipe with the base, the sets and the output folder of a tiny run; every other key stays."""
    kind = "texts" if "MUSE" in str(recipe["forget_dataset"]) else "pairs"
    made = {key: value for key, value in recipe.items() if key != "num_train_epochs"}  # the other way to say max_steps
    for key, name in MODELS.items():
        if key in made:
            made[key] = str(tiny / name)
    for key in SETS:
        if key in made:
            made[key] = str(tiny / f"{key.removesuffix('_dataset')}-{kind}.jsonl")
    if "eval_dataset" in made:
        made["eval_dataset"] = {name: str(tiny / "other-pairs.jsonl") for name in made["eval_dataset"]}
    return made | SHORT | {"output_dir": str(output)}


@pytest.mark.parametrize(
    "path", [path if path.stem in FEW else pytest.param(path, marks=pytest.mark.long) for path in RECIPES], ids=lambda path: path.stem
)
def test_a_recipe_trains_and_saves(path, tiny, tmp_path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(shrunk(recipe, tiny, tmp_path / "out")), encoding="utf-8")
    assert main(["train", str(small)]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report["run"]["steps"] == 2
    kept = {key: value for key, value in recipe.items() if key not in {*SHORT, *SETS, *MODELS, *REPLACED}}
    used = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text(encoding="utf-8"))
    if kept["method"] == "auto":
        kept |= {"method": AUTO, "stop_at": STOPS[path.stem]}
    assert {key: float(value) if key == "learning_rate" else value for key, value in kept.items()} == {key: used[key] for key in kept}
    adapter = load_file(tmp_path / "out/adapter_model.safetensors")
    assert any(tensor.abs().sum() > 0 for name, tensor in adapter.items() if "lora_B" in name)


def test_recipes_name_their_own_output_folder():
    folders = [yaml.safe_load(path.read_text(encoding="utf-8"))["output_dir"] for path in RECIPES]
    assert len(set(folders)) == len(folders)
