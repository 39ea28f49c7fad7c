"""The model card of a merged folder: where its weights come from, its numbers, how to load it, and how much of the forgetting the merge kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from peft_unlearn.publish.card_parts import (
    attack_table,
    eval_results,
    facts,
    in_backticks,
    linked,
    metric_table,
    plain,
    quoted,
    repository,
    test_table,
    verdict,
)
from peft_unlearn.report.summary import summarize
from peft_unlearn.util import disk
from peft_unlearn.util.redaction import is_local, public_name

BODY = """
# {name}

{base_link} with the forgetting adapter {adapter} merged into its weights by `peft-unlearn merge`: it was made to forget a set of texts and to
keep the rest. {verdict}

| | |
| --- | --- |
| weights | {weights} |
| change that the merge kept | {kept} |

## Numbers

{tests}{metrics}
{attacks}
Means over the rows of a set, with 95 % intervals. Forgetting was tested by these metrics, on these weights, at this precision, and by nothing
else: to quantize the model further may bring texts back.

## Load

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name_quoted})
model = AutoModelForCausalLM.from_pretrained({name_quoted}, dtype="auto")
```
"""


def write_merged_card(
    folder: str | Path, *, base: str, adapter: str, weights: str, kept: float | None, report: Mapping[str, Any] | None = None
) -> Path:
    """Write README.md into a merged folder.

    Args:
        base, adapter: folder or Hub name of each; of a local folder only the last component is shown.
        weights: what was written, such as "bf16" or "nf4".
        kept: the median over the weights of the share of the adapter's change that is in what was written, 1 for all of it; None for no weight.
        report: of the merged folder, as `report.build` makes it; of its rows nothing is shown.
    """
    folder = Path(folder)
    name, shown = folder.resolve().name, public_name(base)
    said = summarize(report) if report else None
    data = ModelCardData(
        base_model=None if is_local(base) or Path(base).is_dir() else repository(base),
        base_model_relation="quantized" if weights in ("nf4", "int8") else "finetune",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["unlearning", "peft-unlearn"],
        model_name=name,
        eval_results=(eval_results(report["results"]) if report else None) or None,
        unlearning=facts(report) if report else None,
    )
    body = BODY.format(
        name=plain(name),
        name_quoted=quoted(name),
        base_link=linked(shown) if data.base_model else in_backticks(shown),
        adapter=in_backticks(public_name(adapter)),
        weights=weights,
        kept="-" if kept is None else f"α = {kept:.3f} in the median weight, 1 is all of it",
        verdict=verdict(said, False) if said else "",
        tests=test_table(said.criteria) if said else "",
        metrics=metric_table(report["results"] if report else {}),
        attacks=attack_table(report.get("attacks") or {}) if report else "",
    )
    disk.write_text(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")))
    return folder / "README.md"
