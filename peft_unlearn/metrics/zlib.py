"""The loss beside the text's compressed length: what of a text's likelihood is more than its being repetitive."""

import zlib as compression

from peft_unlearn.metrics.loss import loss
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="never_seen", paper="2012.07805", order=6)
def zlib(score: RowScore, labels: str) -> float | None:
    """Loss divided by the compressed length of the answer; text seen in training is low.

    Loss in nats a token / bytes of zlib(labels), end token in the loss. `labels` is what the T tokens say; an empty one has nothing to measure.
    Source: Carlini et al., arXiv 2012.07805; per token as in OpenUnlearning.
    """
    mean = loss(score)
    return mean / len(compression.compress(labels.encode())) if mean is not None and labels else None
