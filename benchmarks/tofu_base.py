"""A small base for benchmarks/tofu_test_bed.py: a tokenizer and a Llama of .9 million parameters, trained on TOFU authors that no test bed has.

    python benchmarks/tofu_base.py --tofu FOLDER [--output runs/tofu_base]

A byte-level BPE of 2 048 tokens makes TOFU's rows a third as long as the 512 tokens of stories260K, and the study three times as fast.
"""

import argparse
from pathlib import Path

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from memorize import memorize
from peft_unlearn import data

SPECIAL = ["<pad>", "<s>", "</s>"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tofu", required=True, type=Path)
    parser.add_argument("--output", default=Path("runs/tofu_base"), type=Path)
    options = parser.parse_args()
    # of retain90, authors 20 to 99: the first 20 are those of retain_perturbed.json, which the test beds keep
    rows: Dataset = data.load(str(options.tofu / "retain90.json"), name="retain90").select(range(400, 2000))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        (f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows),
        trainers.BpeTrainer(vocab_size=2048, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.04,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    untrained = options.output / "untrained"
    LlamaForCausalLM(config).save_pretrained(untrained)
    tokenizer.save_pretrained(untrained)
    memorize(str(untrained), rows, str(options.output), epochs=8, lr=2e-3)


if __name__ == "__main__":
    main()
