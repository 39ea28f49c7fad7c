"""The models that are asked: the base with and without its forgetting adapter, and beside it a never-seen model where there is one."""

import contextlib
from typing import cast

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from peft_unlearn import data
from peft_unlearn.config import recipe
from peft_unlearn.model import adapters
from peft_unlearn.model.generation import generate
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import locate
from peft_unlearn.workflows import checks, loading
from peft_unlearn.workflows.results import AskResult

ENTERED = {"before": "reference", "after": "student", "never_seen": "never_seen"}


def load(checked: checks.Checked) -> AskResult:
    """Load what a checked request names, all of it at once.

    Raises:
        UserError: what `loading` refuses.
    """
    folder = str(checked.folder)
    plan = recipe.build(checked.values)
    model = loading.settle_base(plan.model, folder if checked.is_adapter else None, key="model")
    model = loading.settle_base(model, model.adapter_name_or_path, key="adapter_name_or_path")
    config, tokenizer, length = loading.load_tokenizer(model, plan.training.max_length, folder if checked.is_adapter else None)
    if checked.is_adapter:
        loading.check_fit(config, model, tokenizer, folder)
    else:
        loading.check_whole(config, model, tokenizer)
    other = checked.request.never_seen or model.never_seen_model_name_or_path
    never_seen = locate(other, checks.FILES, key="never-seen") if other else None
    if never_seen:
        loading.check_never_seen(never_seen, model, tokenizer, key="never-seen")
    own = loading.load_trained(model, folder) if checked.is_adapter else loading.load_whole(model)
    models: dict[str, PreTrainedModel | PeftModel] = {"before": own, "after": own} if checked.is_adapter else {"after": own}
    if never_seen:
        models["never_seen"] = loading.load_never_seen(model, never_seen, key="never-seen")
    elif checked.is_adapter and model.adapter_name_or_path and model.adapter_mode != "merge":
        models["never_seen"] = own
    template = plan.training.chat_template_kwargs or {}

    def answers(text: str, is_question: bool, most: int) -> dict[str, str]:
        if not text.strip():
            raise UserError("question: it is empty, write one.")
        row = {"question": text, "answer": "."} if is_question else {"prompt": text, "completion": "."}
        rows = data.tokenize(Dataset.from_list([row]), tokenizer, length, name="question", template_arguments=template).rows
        found = {}
        for view, one in models.items():
            entered = adapters.view(one, ENTERED[view]) if one is own and isinstance(one, PeftModel) else contextlib.nullcontext()
            with entered:
                (found[view],) = generate(cast(PreTrainedModel, one), tokenizer, rows, max_new_tokens=most)
        return found

    page = checked.folder / "report.html"
    return AskResult(str(checked.request.model), tuple(models), answers, page if page.is_file() else None)
