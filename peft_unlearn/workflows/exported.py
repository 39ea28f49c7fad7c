"""A forgetting adapter as GGUF files: merged, converted and quantized by llama.cpp, and measured as llama.cpp runs them."""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft_unlearn import merging, report
from peft_unlearn.benchmarks import Sets
from peft_unlearn.config import recipe
from peft_unlearn.merging import lora, shards
from peft_unlearn.metrics import suite
from peft_unlearn.model import llama_cpp as running
from peft_unlearn.model import loading, saved
from peft_unlearn.report.build import entries
from peft_unlearn.util import disk, llama_cpp
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, check_room, locate
from peft_unlearn.util.gguf import is_gguf, joined_name
from peft_unlearn.util.redaction import public_name
from peft_unlearn.workflows import checks, merged, views
from peft_unlearn.workflows.merge import below_of, merge
from peft_unlearn.workflows.requests import ExportRequest, MergeRequest
from peft_unlearn.workflows.results import ExportResult

logger = logging.getLogger(__name__)

REPORT, MODELFILE = "gguf.json", "Modelfile"
SIXTEEN = ("f16", "bf16")
UNLIKE = (
    "use_rslora",
    "use_dora",
    "lora_bias",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
)  # no place in an adapter's GGUF


@dataclass
class Export:
    """What is exported, where its steps work, and the seconds that each of them took."""

    request: ExportRequest
    source: Path  # llama.cpp's
    folder: Path  # an adapter's, or a merged model's
    work: Path
    settings: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    sixteen: dict[Path, Path] = field(default_factory=dict)  # of a model's folder, what others are quantized from

    @property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER_CONFIG).is_file()

    @property
    def base(self) -> str:
        """Folder, GGUF file or Hub name of the adapter's base."""
        return str(self.request.base or saved.config_of(str(self.folder), key="adapter").base_model_name_or_path or "")

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        logger.info("%s …", step)
        began = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - began, 1)


def as_gguf(request: ExportRequest, source: Path) -> ExportResult:
    """Write a folder with a GGUF file of each type, a Modelfile for Ollama, and what the files still say, as far as that can be measured here.

    Args:
        source: the folder of llama.cpp.

    Raises:
        UserError: what `merging.merge` and llama.cpp's converters refuse, or an adapter that has no place in GGUF.
    """
    output = Path(request.output)
    folder = locate(request.adapter, [*checks.FILES, *shards.LICENSE_FILES], key="adapter")
    with shards.written_whole(output, 0) as partial_folder, tempfile.TemporaryDirectory(dir=partial_folder.parent) as work:
        job = Export(request, source, folder, Path(work), recipe.known(recipe.written(folder)))
        if "lora" in request.gguf:
            check_lora(job)
        whole = _whole(job) if set(request.gguf) - {"lora"} else None
        files = {kind: partial_folder / f"{folder.resolve().name}-{kind}.gguf" for kind in dict.fromkeys(request.gguf)}
        for kind, file in sorted(files.items(), key=lambda one: one[0] not in SIXTEEN):
            _write_lora(job, file) if kind == "lora" else _write(job, whole or folder, kind, file)
        if whole is not None:
            shards.copy_files(whole, partial_folder, shards.LICENSE_FILES)
        _write_modelfile(job, partial_folder, files)
        results, why_not = _measured(job, whole or folder, files) if request.evaluate else ({}, None)
        facts = {
            "adapter": public_name(str(request.adapter)),
            "files": {kind: {"file": file.name, "bytes": file.stat().st_size} for kind, file in files.items()},
            "seconds": job.seconds,
            **results,
        }
        disk.write_text(partial_folder / REPORT, json.dumps(facts, indent=1, allow_nan=False) + "\n")
        names = tuple(sorted(path.name for path in partial_folder.iterdir()))
    return ExportResult(output, names, facts, why_not)


def check_lora(job: Export) -> None:
    """See that an adapter means in GGUF, which has one scale and two factors for each weight, what it means here.

    Raises:
        UserError: it does not, or is no adapter.
    """
    if not job.is_adapter:
        raise UserError(f"gguf: {job.folder} is no adapter, leave lora out.")
    config = lora.read_config(job.folder)
    if found := next((key for key in UNLIKE if getattr(config, key, None)), None):
        raise UserError(f"gguf: an adapter with {found} has no place in GGUF; write a type that it is merged for, such as q8_0.")
    if job.request.below or (job.settings.get("adapter_name_or_path") and job.settings.get("adapter_mode") != "continue"):
        raise UserError(
            "gguf: the adapter lies on another one, without which it is not what it was; run combine first, or write a merged type."
        )


def _whole(job: Export) -> Path:
    """The merged model's folder."""
    if not job.is_adapter:
        shards.checkpoint(job.folder)
        return job.folder
    with job.timed("merging"):
        merge(MergeRequest(job.folder, job.work / "merged", base=job.request.base, below=job.request.below, evaluate=False))
    return job.work / "merged"


def _write(job: Export, whole: Path, kind: str, file: Path) -> None:
    """The GGUF file of a transformers folder; what the converter does not write itself is quantized from 16 bits."""
    check_room(file.parent, sum(path.stat().st_size for path in whole.glob("*.safetensors")), key="output")
    if kind in llama_cpp.DIRECT:
        with job.timed(f"converting to {kind}"):
            llama_cpp.convert(job.source, llama_cpp.MODEL, whole, "--outfile", file, "--outtype", kind)
        if kind in SIXTEEN:
            job.sixteen.setdefault(whole, file)
        return
    if whole not in job.sixteen:
        job.sixteen[whole] = job.work / f"{whole.name}-16.gguf"
        with job.timed("converting to 16 bits"):
            llama_cpp.convert(job.source, llama_cpp.MODEL, whole, "--outfile", job.sixteen[whole], "--outtype", "auto")
    with job.timed(f"quantizing to {kind}"):
        llama_cpp.quantize(job.sixteen[whole], file, kind, job.source)


def _write_lora(job: Export, file: Path) -> None:
    base = job.work / "config"
    config = loading.config(job.base, revision=job.settings.get("model_revision"), key="base")
    config.architectures = [type(loading.skeleton(config, job.base, key="base")).__name__]  # which a GGUF file does not name
    config.save_pretrained(base)
    with job.timed("converting the adapter"):
        llama_cpp.convert(job.source, llama_cpp.LORA, job.folder, "--base", base, "--outfile", file, "--outtype", "f32")


def _write_modelfile(job: Export, folder: Path, files: Mapping[str, Path]) -> None:
    """For `ollama create`: the first file; or the adapter on its base, where that is a GGUF file, without the way to it on this machine."""
    kind, file = next(iter(files.items()))
    lines = [f"FROM ./{file.name}"]
    if kind == "lora":
        if not is_gguf(job.base):
            return
        base = Path(job.base).name
        joined = "" if joined_name(base) == base else f", joined by llama-gguf-split --merge {base} {joined_name(base)}"
        lines = [f"# The base lies beside this file{joined}.", f"FROM ./{joined_name(base)}", f"ADAPTER ./{file.name}"]
    disk.write_text(folder / MODELFILE, "\n".join(lines) + "\n")


def _measured(job: Export, whole: Path, files: Mapping[str, Path]) -> tuple[dict[str, Any], str | None]:
    """What the files say of the sets of the adapter's recipe, beside the adapter's own report; or why nothing was measured."""
    if not llama_cpp.has_binding():
        return {}, f"llama-cpp-python is not installed, run {llama_cpp.BINDING}."
    if not job.settings.get("forget_dataset"):
        return {}, f"no recipe.yaml in {job.folder} names the sets."
    try:
        found = views.prepare(checks.measured(merged.request(whole, job.settings)))
    except UserError as error:
        return {}, str(error)
    columns: dict[str, Sets] = {}
    read: dict[str, int] = {}
    base = locate(job.base, [], key="base", revision=job.settings.get("model_revision")) if is_gguf(job.base) else None
    for name, file, adapter in _runs(job, files, base):
        with job.timed(f"asking {name}"):
            columns[name], read[name] = _asked(found, file, adapter, name)
    if not columns:
        return {}, "an adapter is asked on its base as llama.cpp holds it, and the base is no GGUF file."
    return {
        **_beside(job, columns),
        "rows_read_alike": read,
        "rows": sum(len(probe.rows) for probe in found.benchmark.probes.values()),
    }, None


def _runs(job: Export, files: Mapping[str, Path], base: Path | None) -> Iterator[tuple[str, Path, Path | None]]:
    """What is asked, by the name of its column: a GGUF file, and an adapter that is put on it."""
    first = next(iter(files))
    if job.request.before:
        yield f"before {first.upper()}", *_before(job, first, base)
    for kind, file in files.items():
        if kind != "lora":
            yield kind.upper(), file, None
        elif base is not None:
            yield kind.upper(), base, file


def _before(job: Export, kind: str, base: Path | None) -> tuple[Path, None]:
    """The base exported as the `kind` is, with what the adapter was trained on top of merged into it; a GGUF base as it is."""
    own = below_of(job.request.below, job.settings) or job.settings.get("adapter_name_or_path")
    if base is not None and not own:
        return base, None
    if own:
        with job.timed("merging before"):
            folder = merging.merge(own, job.work / "before", base=job.base, revision=job.settings.get("model_revision")).folder
    else:
        folder = locate(job.base, merging.merging.BASE_FILES, key="base", revision=job.settings.get("model_revision"))
    file = job.work / "before.gguf"
    _write(job, folder, "f16" if kind == "lora" else kind, file)
    return file, None


def _asked(found: views.Job, file: Path, adapter: Path | None, name: str) -> tuple[Sets, int]:
    """Every set, and the number of rows that llama.cpp's own tokenizer reads alike."""
    shared, sets, alike = found.benchmark.shared(found.tokenizer), dict[str, Any](), 0  # type: ignore[attr-defined]  # an Own
    for of_set, probe in found.benchmark.probes.items():
        read = running.read(file, found.tokenizer, probe.rows, lora=adapter, progress=f"{name}, {of_set}")
        sets[of_set] = suite.told(found.tokenizer, probe.rows, read.scores, read.answers, shared=shared[of_set])
        alike += read.alike
    return sets, alike


def _beside(job: Export, columns: Mapping[str, Sets]) -> dict[str, Any]:
    """The columns of each set, after those that the adapter's report has of the same rows."""
    path = job.folder / merged.REPORT
    reported = report.read(path) if path.is_file() else {"results": {}}
    taken, _ = merged.beside(reported, next(iter(columns.values())), path)
    names = ("before", "adapter") if job.is_adapter else ()
    return {
        "results": {
            name: {
                **{view: taken[name][view] for view in names if view in taken[name]},
                **{view: entries(sets[name]) for view, sets in columns.items()},
            }
            for name in taken
        }
    }
