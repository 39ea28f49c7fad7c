"""How a GGUF file is opened in llama.cpp, by a stand-in for its binding: the extra is compiled, and not part of dev."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from peft_unlearn.model.llama_cpp import loaded


@pytest.mark.parametrize("fails", [False, True])
def test_weights_stay_as_they_are_in_the_file_and_the_bindings_defaults_are_its_own_again(fails, monkeypatch):
    """Rearranged, they end the process on some machines."""
    opened = []

    def defaults():
        return SimpleNamespace(use_extra_bufts=True)

    library = SimpleNamespace(llama_model_default_params=defaults)

    def llama(path, **how):
        opened.append((path, library.llama_model_default_params().use_extra_bufts, how))
        if fails:
            raise ValueError("no such file")
        return "a model"

    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(llama_cpp=library, Llama=llama))
    if fails:
        with pytest.raises(ValueError, match="no such file"):
            loaded(Path("a.gguf"), n_ctx=8)
    else:
        assert loaded(Path("a.gguf"), n_ctx=8) == "a model"
    assert opened == [("a.gguf", False, {"verbose": False, "n_ctx": 8})]
    assert library.llama_model_default_params is defaults
