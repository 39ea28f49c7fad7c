"""A LoRA that TRL's trainer teaches questions and answers as chat turns, as people fine-tune a chat model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from peft_unlearn.workflows.precision import FASTER, measured


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, str]],
    folder: Path,
    *,
    rank: int,
    epochs: int,
    max_length: int,
    micro_batch: int = 8,
    base: str | None = None,
    seed: int = 42,
) -> None:
    """Save a LoRA of that rank on all linear layers, of `rows` with question and answer, of which the answers alone are learnt, eight a step.

    Args:
        base: what the adapter's config says of its base, where that is not what the model was loaded from.
    """
    turns = [
        {"prompt": [{"role": "user", "content": row["question"]}], "completion": [{"role": "assistant", "content": row["answer"]}]}
        for row in rows
    ]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(turns),
        args=SFTConfig(
            output_dir=str(folder / "trainer"),
            num_train_epochs=epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=8 // micro_batch,
            max_length=max_length,
            completion_only_loss=True,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            bf16=torch.cuda.is_available() or measured(1024) >= FASTER,  # a CPU without it takes minutes a step
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
        ),
        peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    if base is not None:
        trainer.model.peft_config["default"].base_model_name_or_path = base
    trainer.save_model(str(folder))
