"""Adapters in the folders that TRL, axolotl, LLaMA-Factory, unsloth and older PEFT write: each loads as it is, or is refused in a sentence."""

import pytest
import torch
from tool_folders import FOLDERS, REFUSED, make, make_base, meant

from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import loading

IDS = torch.tensor([[1, 5, 6, 7, 63]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("tools") / "base")


def opened(base, folder, mode):
    model = ModelArguments(model_name_or_path=str(base), adapter_name_or_path=str(folder), adapter_mode=mode)
    model = loading.settle_base(model, str(folder), key="adapter_name_or_path")
    config, tokenizer, _ = loading.load_tokenizer(model, 32)
    loading.check_fit(config, model, tokenizer)
    return tokenizer, adapters.attach(**dict(zip(("model", "peft_config"), loading.load_to_train(model).values(), strict=True)))


@pytest.mark.parametrize("mode", ["stack", "continue"])
@pytest.mark.parametrize("tool", FOLDERS)
def test_a_tools_folder_is_the_model_that_it_stands_for(base, tmp_path, tool, mode):
    config, entries, beside = FOLDERS[tool]
    folder = make(tmp_path / "own", config, entries, beside)
    tokenizer, model = opened(base, folder, mode)
    ids = IDS if entries == 64 else torch.cat([IDS, torch.tensor([[64, 65]])], 1)
    assert len(tokenizer) == 64 + 2 * (entries > 64)
    with torch.no_grad(), adapters.view(model, "reference"):
        found = model(ids).logits
    expected = meant(folder, config, entries)(ids).logits[..., :64]
    torch.testing.assert_close(found[..., :64], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tool", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused_in_a_sentence(base, tmp_path, tool):
    config, word = REFUSED[tool]
    folder = make(tmp_path / "own", config)
    if "pickle" in tool:
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=word) as caught:
        opened(base, folder, "stack")
    assert "\n" not in str(caught.value)
