"""llama.cpp on this machine: its converters in a checkout, what quantizes, and its Python binding. Without torch."""

import ctypes
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peft_unlearn.util.boundary import LONGEST
from peft_unlearn.util.errors import UserError

VARIABLE = "LLAMA_CPP"
MODEL, LORA = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
DIRECT = ("f32", "f16", "bf16", "q8_0")  # what the converter writes by itself
QUANTIZED = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k")
TYPES = ("lora", *DIRECT, *QUANTIZED)
IMPORTED = ("gguf", "sentencepiece")  # by the converters
BINDING = "pip install 'peft-unlearn[llama-cpp]'"
CHECKOUT = "git clone --depth 1 https://github.com/ggml-org/llama.cpp"
TOOL = "llama-quantize"


def checkout(given: str | Path | None) -> Path:
    """The folder of llama.cpp's source, as it was given or as the environment says.

    Raises:
        UserError: none, or one without the converters.
    """
    name = given or os.environ.get(VARIABLE)
    if not name:
        raise UserError(
            f"llama-cpp: llama.cpp's converters write GGUF, and no folder of it is given; run {CHECKOUT} and write --llama-cpp llama.cpp."
        )
    folder = Path(name)
    if not (folder / MODEL).is_file():
        raise UserError(f"llama-cpp: there is no {MODEL} in {str(folder)!r}; write the folder that {CHECKOUT} makes.")
    return folder


def has_binding() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


def check(types: Sequence[str], folder: Path) -> None:
    """See that the converters run here, and that something quantizes to these types.

    Raises:
        UserError: a package that they import is not there, or nothing that quantizes.
    """
    if gone := [name for name in IMPORTED if importlib.util.find_spec(name) is None]:
        raise UserError(f"gguf: {gone[0]} is not installed, which llama.cpp's converters import; run {BINDING}.")
    asked = [one for one in types if one in QUANTIZED]
    if asked and not has_binding() and _tool(folder) is None:
        raise UserError(f"gguf: nothing here quantizes to {asked[0]}; run {BINDING}, or put llama.cpp's {TOOL} on the PATH, or write q8_0.")


def convert(folder: Path, script: str, *arguments: str | Path) -> None:
    """Run one of the converters.

    Raises:
        UserError: it ended with an error, of which the last line is told.
    """
    _run(
        [sys.executable, str(folder / script), *map(str, arguments)],
        "llama.cpp's converter",
        "see whether llama.cpp knows that architecture and tokenizer",
    )


def quantize(source: Path, target: Path, kind: str, folder: Path) -> None:
    """Quantize a GGUF file of 16 or 32 bits to one of `QUANTIZED`, by the binding or else by llama.cpp's own tool.

    Raises:
        UserError: llama.cpp gave it up.
    """
    tool = _tool(folder)
    if not has_binding() and tool is not None:
        _run([tool, str(source), str(target), kind.upper()], f"llama.cpp's {TOOL}", "write another type, or q8_0")
        return
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(how)):
        raise UserError(f"gguf: llama.cpp could not quantize to {kind}; write another type, or q8_0.")


def _tool(folder: Path) -> str | None:
    built = folder / "build" / "bin" / TOOL
    return str(built) if built.is_file() else shutil.which(TOOL)


def _run(command: list[str], what: str, mend: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise UserError(f"gguf: {what} failed ({lines[-1][-LONGEST:].rstrip('.')}); {mend}.")
