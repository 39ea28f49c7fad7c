"""The model card of a forgetting adapter: method, settings, numbers, how to load and merge it, and what it gives away.

PEFT's own card leaves out the quantization and shows local paths (measured, peft 0.21.2); write this one after `save_pretrained`.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from peft_unlearn.config import methods
from peft_unlearn.publish.card_parts import (
    attack_table,
    eval_results,
    facts,
    in_backticks,
    in_cell,
    joining,
    linked,
    metric_table,
    plain,
    quoted,
    repository,
    source,
    test_table,
    verdict,
)
from peft_unlearn.publish.own_adapter import ALONE, Own
from peft_unlearn.report.build import KINDS
from peft_unlearn.report.summary import summarize
from peft_unlearn.util import disk
from peft_unlearn.util.gguf import is_gguf
from peft_unlearn.util.parts import Part
from peft_unlearn.util.redaction import is_local, public_name
from peft_unlearn.util.registry import COMBINERS, LOSSES

# Of a run's settings and of its adapter's configuration.
SHOWN = (
    "learning_rate",
    "forget_loss",
    "combine",
    "teacher_decay",
    "stop_at",
    "train_quantized",
    "logit_lens_coef",
    "sam_rho",
    "retain_kl_max",
    *methods.COMMON,
)
SHOWN += ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "seed")
SHOWN_OF_ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "init_lora_weights", "use_rslora", "use_dora")

BODY = """
# {name}

A LoRA adapter that makes {base_link} forget a set of texts and keep the rest, made with `peft-unlearn`. {own.whole}{verdict}

| | |
| --- | --- |
{parts}
| base in training | {quantization} |{own.row}

## Numbers

{tests}{metrics}
{attacks}
*Before* is {own.before}, *never-seen* what a model shows that never met the forget set{never_seen}. Means over the
rows of a set, with 95 % intervals; `report.json` has the value of every row.
Forgetting was tested by these metrics, on these weights, at this precision, and by nothing else.

## Load

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{imported}

{joining}tokenizer = AutoTokenizer.from_pretrained({tokenizer})
base = AutoModelForCausalLM.from_pretrained({base})  # quantized as above, it gives the numbers above
{load}
```

## Merge

    {merge}

This adds the adapter to the 16-bit weights of the base, shows how much of the change is left in what was written, and evaluates that;
`--quantize nf4` or `int8` quantizes afterwards. Do not merge in place into 4-bit weights: the change is smaller than their rounding step, so
most of it is rounded away and the forgotten texts come back.

## What this adapter gives away

Whoever has {own.both} has the model before and after forgetting, and can compare the two (reversed guidance, or the
adapter at a negative scale) to draw out what was forgotten. Keep the repository private unless that is acceptable: uploads are private
by default. To hand out a model that has forgotten, hand out the merged weights.

## Settings

| setting | value |
| --- | --- |
{settings}
"""


def shown(settings: Mapping[str, Any], adapter: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """What a card shows of a run's settings, its adapter's configuration and the optimizer steps that it took."""
    of_adapter = {key: adapter[key] for key in SHOWN_OF_ADAPTER if key in adapter}
    return {key: settings[key] for key in SHOWN if key in settings} | of_adapter | {"max_steps": steps}


def write_card(
    folder: str | Path,
    *,
    base: str,
    method: str,
    settings: Mapping[str, Any],
    quantization: str | None = None,
    revision: str | None = None,
    report: Mapping[str, Any] | None = None,
    below: str | None = None,
    below_mode: str = "stack",
    reference: str | None = None,
) -> Path:
    """Write README.md into an adapter's folder, over the one that PEFT wrote.

    Args:
        base: folder or Hub name of the base; of a local folder only the last component is shown.
        method: a name of `peft_unlearn.config.methods.METHODS`.
        settings: what the run was trained with, a row each; paths are cut to their last component, None is left out.
        quantization: how the base was loaded in training, such as "NF4, double quantization, bf16 compute"; None for 16/32 bit.
        revision: of the base on the Hub, where it is not its main branch.
        report: as `report.build` makes it; of its rows nothing is shown.
        below: folder or Hub name of the user's own adapter, if there was one.
        below_mode: what became of it: "stack", this one lies on top of it; "continue", this one holds it; "merge", it is part of the base here.
        reference: folder or Hub name of the user's own adapter alone, where `below` has forgotten something already.
    """
    folder = Path(folder)
    name, shown, finetune = folder.resolve().name, public_name(base), public_name(below) if below else None
    own = Own(in_backticks(finetune), below_mode, in_backticks(public_name(reference)) if reference else "") if finetune else ALONE
    beside = finetune if below_mode != "continue" else None  # what is loaded with it
    results, said = (report["results"], summarize(report)) if report else ({}, None)
    kind = report["never_seen"]["kind"] if report else None
    data = _metadata(name, base, method, results, report)
    body = BODY.format(
        name=plain(name),
        base=_loaded(shown, revision),
        imported=", GgufConfig" if is_gguf(base) else "",
        joining=joining(shown),
        tokenizer=source(name if (folder / TOKENIZER_CONFIG_FILE).is_file() else shown),
        base_link=in_backticks(shown) if is_local(base) else linked(shown),
        parts="\n".join(_parts(method, settings)),
        quantization=quantization or "16/32-bit weights, not quantized",
        own=own,
        verdict=verdict(said, bool(report["run"].get("stopped"))) if report and said else "",
        tests=test_table(said.criteria) if said else "",
        metrics=metric_table(results),
        attacks=attack_table(report.get("attacks") or {}) if report else "",
        never_seen=f" (here: {KINDS[kind]})" if kind else "",
        load=_load_code(name, beside, below_mode == "merge"),
        merge=shlex.join(["peft-unlearn", "merge", name, "--output", "merged", *(["--below", beside] if beside else [])]),
        settings="\n".join(f"| `{key}` | {in_cell(value)} |" for key, value in settings.items() if value is not None),
    )
    disk.write_text(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")))
    return folder / "README.md"


def _metadata(name: str, base: str, method: str, results: Mapping[str, Any], report: Mapping[str, Any] | None) -> ModelCardData:
    """What the Hub reads of a card."""
    return ModelCardData(
        base_model=None if is_local(base) else repository(base),  # the Hub would take a local name for one of its own
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["unlearning", "lora", "peft-unlearn", method],
        model_name=name,
        eval_results=eval_results(results) or None,
        unlearning=facts(report) if report else None,
    )


def _parts(method: str, settings: Mapping[str, Any]) -> list[str]:
    """A row of a table for the method and for what it is made of: what it is, and its papers."""
    named: list[tuple[str, str, methods.Method | Part]] = [("method", method, methods.METHODS[method])]
    for what, key, registry in (("forget loss", "forget_loss", LOSSES), ("combiner", "combine", COMBINERS)):
        if key in settings:
            named.append((what, settings[key], registry[settings[key]]))
    rows = []
    for what, name, part in named:
        papers = ", ".join(f"[arXiv {paper}](https://arxiv.org/abs/{paper})" for paper in part.papers)
        rows.append(f"| {what} | `{name}`: {in_cell(part.help.rstrip('.'))}{f' ({papers})' if papers else ''} |")
    return rows


def _loaded(base: str, revision: str | None) -> str:
    """What `from_pretrained` is given for the base, so that it is the one that the adapter was trained on."""
    of_revision = f", revision={quoted(revision)}" if revision else ""
    return source(base) + of_revision + (", quantization_config=GgufConfig(dequantize=True)" if is_gguf(base) else "")


def _load_code(name: str, finetune: str | None, merged: bool) -> str:
    load = f"model = PeftModel.from_pretrained(base, {quoted(name)})"
    if finetune is None:
        return load
    if merged:
        return f"base = PeftModel.from_pretrained(base, {quoted(finetune)}).merge_and_unload()  # it is part of the base here\n{load}"
    return (
        f'model = PeftModel.from_pretrained(base, {quoted(finetune)}, adapter_name="finetune")\n'
        f'model.load_adapter({quoted(name)}, adapter_name="default")\n'
        'model.base_model.set_adapter(["finetune", "default"])'
    )
