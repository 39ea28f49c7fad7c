"""Make a language model forget texts with a LoRA adapter, and report honestly how far it holds."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft_unlearn.config.unlearn_config import UnlearnConfig
    from peft_unlearn.training.trainer import UnlearnTrainer

__version__ = "0.5.0"
__all__ = ["UnlearnConfig", "UnlearnTrainer"]


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): `peft-unlearn --help` must not wait for torch."""
    if name == "UnlearnConfig":
        from peft_unlearn.config.unlearn_config import UnlearnConfig

        return UnlearnConfig
    if name == "UnlearnTrainer":
        from peft_unlearn.training.trainer import UnlearnTrainer

        return UnlearnTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
