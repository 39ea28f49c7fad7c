"""Make a language model forget texts with a LoRA adapter, and report honestly how far it holds."""

__version__ = "0.1.0"
