"""Does the model still answer questions about a document: MUSE's KnowMem (Shi et al., arXiv 2407.06460)."""

from collections.abc import Iterable, Mapping

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.tokenizing import tokenize
from peft_unlearn.metrics.rouge_l import rouge_l_f1
from peft_unlearn.model.generation import context_length, generate
from peft_unlearn.util.registry import metric

TOKENS = 32  # of an answer: MUSE's length
# Where a base model that was shown questions and answers goes on to the next question.
STOP_STRINGS = ("\n\n", "\nQuestion", "Question:")


@metric(direction="lower", paper="2407.06460")
def knowmem(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, str]],
    examples: Iterable[Mapping[str, str]],
    *,
    batch_size: int = 16,
) -> list[float | None]:
    """Overlap of answers about the texts with the right ones; forgotten is low, retained is high.

    ROUGE-L F1 of the greedy short answer to each question; None for an answer without words. Rows and `examples` (MUSE's icl rows, shown before
    every question) are {"question", "answer"}, written without a chat template as "Question: ...\\nAnswer: ..." with an empty line between them. The
    prompt ends in "Answer:", where MUSE's has a space more: tokenizers that glue the space to the next word never saw that space alone.

    Raises:
        UserError: a row without text, or one that the context does not hold.
    """
    shots = "".join(f"Question: {example['question']}\nAnswer: {example['answer']}\n\n" for example in examples)
    asked = [
        {"prompt": f"{shots}Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}".rstrip(), "answer": row["answer"]}
        for row in rows
    ]
    if not asked:
        return []
    tokens = tokenize(Dataset.from_list(asked), tokenizer, context_length(model), name="knowmem").rows
    answers = generate(
        model, tokenizer, tokens, batch_size=batch_size, max_new_tokens=TOKENS, stop_strings=STOP_STRINGS, progress="answering"
    )
    return [rouge_l_f1(row["answer"], answer) for row, answer in zip(asked, answers, strict=True)]
