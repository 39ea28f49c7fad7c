"""Recipes: what is read, what is refused and in which words, and that a resolved recipe is the same recipe."""

from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments
from trl import ModelConfig

from peft_unlearn.config import keys, methods, reading, recipe
from peft_unlearn.config.foreign_keys import FOREIGN_KEYS, RENAMED_VALUES
from peft_unlearn.util.errors import UserError

BASE = {"model_name_or_path": "some/model", "forget_dataset": "forget.jsonl", "output_dir": "out"}
RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_passes_the_checks(path):
    plan = recipe.read(path)
    assert plan.training.method in methods.METHODS
    assert recipe.build(plan.resolved()).resolved() == plan.resolved()


def test_there_are_recipes():
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("method", methods.METHODS)
def test_resolved_recipe_is_the_same_recipe(method, tmp_path):
    plan = recipe.build({**BASE, "method": method, "output_dir": str(tmp_path), "optim_args": "momentum=0.9", "optim": "sgd"})
    plan.write(tmp_path)
    again = recipe.read(tmp_path / "recipe.yaml")
    assert again.resolved() == plan.resolved()
    assert again.training.forget_coef == methods.defaults(method)["forget_coef"]
    assert set(plan.resolved()) >= set(methods.defaults(method))


def test_epochs_take_the_place_of_the_methods_steps_and_stay_so():
    plan = recipe.build({**BASE, "num_train_epochs": 5})
    assert (plan.training.max_steps, plan.training.num_train_epochs) == (-1, 5.0)
    assert recipe.build(plan.resolved()).training.max_steps == -1


def test_command_line_overrides_the_file(tmp_path):
    path = written(tmp_path, yaml.safe_dump({**BASE, "learning_rate": 1e-3, "seed": 1}))
    overrides = ["--learning-rate", "2e-4", "--seed=7", "--load_in_4bit", "--lora_target_modules", "q_proj", "v_proj", "--max_steps", "-1"]
    plan = recipe.read(path, overrides)
    assert (plan.training.learning_rate, plan.training.seed, plan.training.max_steps) == (2e-4, 7, -1)
    assert plan.model.load_in_4bit
    assert plan.model.lora_target_modules == ["q_proj", "v_proj"]


def test_command_line_takes_mappings():
    parsed = reading.parse_overrides(["--forget_dataset", "{path: locuslab/TOFU, name: forget10}"])
    assert recipe.build({**BASE, **parsed}).data.forget_dataset == {"path": "locuslab/TOFU", "name": "forget10"}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # text in YAML 1.1
        ("learning_rate: 1", "learning_rate", 1.0),
        ("warmup_steps: 1e-1", "warmup_steps", 0.1),
        ("save_strategy: no", "save_strategy", "no"),  # false in YAML 1.1
        ("load_in_4bit: yes", "load_in_4bit", True),
        ("lora_target_modules: q_proj", "lora_target_modules", ["q_proj"]),
        ("lora_target_modules: [q_proj]", "lora_target_modules", ["q_proj"]),
        ("run_name: 7", "run_name", "7"),
        ("report_to: wandb", "report_to", ["wandb"]),
        ("max_steps: 1e2", "max_steps", 100),
    ],
)
def test_values_become_the_type_of_their_key(tmp_path, line, key, value):
    plan = recipe.read(written(tmp_path, yaml.safe_dump(BASE) + line))
    found = plan.resolved()[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learning_rate: fast", "learning_rate: 'fast' is not a number."),
        ("learning_rate: -1", "learning_rate: -1.0 is out of range"),
        ("lora_r: 1.5", "lora_r: 1.5 is not a whole number."),
        ("lora_r: 0", "lora_r: 0 is out of range"),
        ("lora_dropout: 1", "lora_dropout: 1.0 is out of range"),
        ("lora_r:", "lora_r: it is empty"),
        ("load_in_4bit: maybe", "load_in_4bit: 'maybe' is not true or false."),
        ("bf16: auto", "bf16: 'auto' is not true or false."),
        ("method: magic", "method: 'magic' is not one of auto, mean_teacher"),
        ("combine: magic", "combine: 'magic' is not one of"),
        ("optim: magic", "optim: 'magic' is not one of adamw_torch"),
        ("lr_scheduler_type: magic", "lr_scheduler_type: 'magic' is not one of linear"),
        ("dtype: int3", "dtype: 'int3' is not one of auto, bfloat16"),
        ("bnb_4bit_quant_type: nf3", "bnb_4bit_quant_type: 'nf3' is not one of fp4, nf4."),
        ("adapter_mode: glue", "adapter_mode: 'glue' is not one of stack, merge, continue."),
        ("reference_adapter_name_or_path: a", "reference_adapter_name_or_path: it is for adapter_mode: stack"),
        ("adapter_name_or_path: a\nadapter_mode: continue\nreference_adapter_name_or_path: a", "reference_adapter_name_or_path: it is for"),
        ("use_peft: false", "use_peft: false is not possible"),
        ("init_lora_weights: pissa", "init_lora_weights: 'pissa' changes the base, write true"),
        ("load_in_4bit: true\ndtype: auto", "dtype: 'auto' does not say"),
        ("load_in_4bit: true\nload_in_8bit: true", "load_in_8bit: load_in_4bit is given as well"),
        ("load_in_4bit: true\nadapter_name_or_path: a\nadapter_mode: merge", "write stack, or run `peft-unlearn merge` first"),
        ("eval_dataset: facts.jsonl", "eval_dataset: 'facts.jsonl' is not a mapping."),
        ("eval_dataset: {forget: facts.jsonl}", "eval_dataset: 'forget' must be a name of its own"),
        ("eval_rows: -1", "eval_rows: -1 is out of range"),
        ("chat_template_kwargs: {tokenize: true}", "chat_template_kwargs: tokenize is not one of a template's own"),
        ("chat_template_kwargs: fast", "chat_template_kwargs: 'fast' is not a mapping."),
        ("retain_dataset: [a, b]", "retain_dataset: ['a', 'b'] is not text or a mapping."),
        ("forget_loss_args: {tl: 1}", "forget_loss_args: nlul has no parameter 'tl'"),
        ("learnin_rate: 1", "learnin_rate: there is no such key, did you mean learning_rate?"),
        ("qqq: 1", "qqq: there is no such key, see `peft-unlearn keys`"),
        ("lora_rank: 8", "lora_rank: write lora_r (lora_rank is the name of LLaMA-Factory)."),
        ("adapter: qlora", "adapter: leave it out"),
        ("resist: 0.2", "resist: write sam_rho (resist is the name of peft-unlearn up to 0.1.0)."),
        ("survive: nf4", "survive: write train_quantized"),
        ("inner_coef: 0.3", "inner_coef: write logit_lens_coef"),
        ("dual_rate: 1", "dual_rate: write lagrangian_rate"),
        ("forget_loss: odds", "forget_loss: odds is now log_odds, write that."),
        ("forget_loss: flatten", "forget_loss: flatten is now logit_margin, write that."),
        ("hidden_layer: 0", "hidden_layer: 0 is out of range, write a value of at least 1."),
        ("warmup_steps: -1", "warmup_steps: -1.0 is out of range"),
        ("stop_at: auto", "stop_at: 'auto' needs rows of the forget set's kind"),
        ("stop_at: never_seen", "stop_at: 'never_seen' needs a model that never saw the forget set"),
        ("adapter_name_or_path: a\nadapter_mode: merge\nstop_at: never_seen", "stop_at: 'never_seen' needs a model"),
        ("parallelism_config: {tp_size: 2}", "parallelism_config: the gradient of each objective needs whole weights"),
        ("trackio_static_space_id: [a]", "trackio_static_space_id: ['a'] is not text."),
        ("seed: 1\nseed: 2", "seed: it stands twice in the recipe (line 5), take one out."),
        ("seed: [1", "line 5 is not YAML"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    path = written(tmp_path, yaml.safe_dump(BASE) + line + "\n")
    with pytest.raises(UserError) as caught:
        recipe.read(path)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("key", BASE)
def test_missing_keys_are_named(key):
    with pytest.raises(UserError, match=f"^{key}: it is missing"):
        recipe.build({k: v for k, v in BASE.items() if k != key})


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "just words\n"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="a recipe is a mapping"):
        recipe.read(written(tmp_path, text))


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"recipe: .*none\.yaml does not exist"):
        recipe.read(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="not YAML"):
        recipe.read(tmp_path / "binary.yaml")


def test_a_value_without_a_key_on_the_command_line_is_refused():
    with pytest.raises(UserError, match="a value without a key"):
        reading.parse_overrides(["1e-4", "--seed", "1"])


def test_foreign_keys_are_no_keys_of_ours_and_lead_to_keys_of_ours():
    assert not set(FOREIGN_KEYS) & set(keys.keys())
    known = keys.keys()
    for _, instead in FOREIGN_KEYS.values():
        if instead.startswith("write "):
            named = instead.removeprefix("write ").replace(":", " ").replace(",", " ").split()[0]
            assert named in known or named in ("a", "another", "the"), instead


def test_every_key_of_trl_and_transformers_is_a_key():
    names = {f.name for part in (ModelConfig, TrainingArguments) for f in part.__dataclass_fields__.values() if f.init}
    assert names <= set(keys.keys())
    assert all(key.help for key in keys.keys().values() if key.name not in names)


def test_secrets_are_not_written(tmp_path):
    plan = recipe.build({**BASE, "hub_token": "hf_secret", "forget_dataset": {"path": "some/set", "token": "hf_secret"}})
    plan.write(tmp_path)
    assert plan.training.hub_token == "hf_secret"
    assert "hf_secret" not in (tmp_path / "recipe.yaml").read_text()


@pytest.mark.parametrize("token", [["hf_secret", "x"], "hf_secret\0", {"a": "hf_secret"}])
def test_a_token_that_is_none_is_refused_without_being_told(token):
    with pytest.raises(UserError, match="^hub_token: ") as error:
        recipe.check({**BASE, "hub_token": token})
    assert "hf_secret" not in str(error.value)


@pytest.mark.parametrize(
    ("brought", "stop_at"),
    [
        ({}, "none"),
        ({"holdout_dataset": "unseen.jsonl"}, "auto"),
        ({"holdout_dataset": "unseen.jsonl", "never_seen_model_name_or_path": "twin"}, "never_seen"),
        ({"adapter_name_or_path": "mine"}, "never_seen"),
        ({"adapter_name_or_path": "mine", "adapter_mode": "merge"}, "none"),
        ({"holdout_dataset": "unseen.jsonl", "stop_at": "none"}, "none"),
    ],
)
def test_method_auto_is_the_winner_and_lands_by_what_the_recipe_brings(brought, stop_at, tmp_path):
    values = {"model_name_or_path": "m", "forget_dataset": "f.jsonl", "output_dir": str(tmp_path), "method": "auto"}
    training = recipe.build(values | brought).training
    assert (training.method, training.stop_at) == (methods.AUTO, stop_at)
    assert recipe.build(values | brought).resolved()["method"] == methods.AUTO  # what is written names it


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("seed", "a whole number"),
        ("learning_rate", "a number"),
        ("run_name", "text"),
        ("method", "one of auto, mean_teacher"),
        ("eval-rows", "a"),
    ],
)
def test_a_key_of_a_command_line_without_its_value_is_named(key, wanted):
    with pytest.raises(
        UserError, match=f"^{key.replace('-', '_')}: its value is missing, write {wanted}.* after --{key.replace('-', '_')}"
    ):
        reading.parse_overrides(["--load_in_4bit", f"--{key}", "--use_dora"])


def test_a_key_that_may_be_true_needs_no_value():
    given = ["--load_in_4bit", "--resume_from_checkpoint", "--init_lora_weights", "--auto_lr"]
    assert reading.parse_overrides(given) == dict.fromkeys(("load_in_4bit", "resume_from_checkpoint", "init_lora_weights", "auto_lr"), True)
    with pytest.raises(UserError, match="^nonsense: there is no such key"):
        recipe.build(BASE | reading.parse_overrides(["--nonsense"]))


def test_new_names_of_old_values_are_values():
    assert all(new in keys.keys()[key].choices for key, names in RENAMED_VALUES.items() for new in names.values())
