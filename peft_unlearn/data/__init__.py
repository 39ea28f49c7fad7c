"""From files to batches: sources -> formats -> tokenizing -> pairs -> collating. Nothing here needs a model but `write_rows`."""

from peft_unlearn.data.alternates import alternates
from peft_unlearn.data.collating import Unpadded, by_length, collate, collate_rows, padding, padding_id
from peft_unlearn.data.overlap import check_apart, said
from peft_unlearn.data.pairs import Pairs, PairSampler
from peft_unlearn.data.self_retain import write_rows
from peft_unlearn.data.sources import load
from peft_unlearn.data.tokenizing import Tokenized, tokenize

__all__ = [
    "PairSampler",
    "Pairs",
    "Tokenized",
    "Unpadded",
    "alternates",
    "by_length",
    "check_apart",
    "collate",
    "collate_rows",
    "load",
    "padding",
    "padding_id",
    "said",
    "tokenize",
    "write_rows",
]
