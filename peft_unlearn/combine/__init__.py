"""Combiners: pure functions from the Gram matrix of the objectives' gradients to their weights.

With G the m x n matrix whose rows are the gradients of m objectives (losses to *minimise*) over the n adapter parameters, a combiner maps
the
(m, m) matrix GG' in fp64, and the objectives' coefficients, to weights w of shape (m,); the optimiser is given w'G. It needs nothing
else, so
distributed training only has to sum gradients.

Two objectives that pull against each other, the second with a gradient ten times as long. The sum follows the longer one and raises the
first loss; NGDiff and MOLLM lower both, as the signs of GG'w = Gd show.

>>> import torch
>>> G = torch.tensor([[1.0, 0.0], [-6.0, 8.0]], dtype=torch.float64)
>>> gramian = G @ G.T
>>> weighted_sum(gramian).tolist(), (gramian @ weighted_sum(gramian)).tolist()
([1.0, 1.0], [-5.0, 94.0])
>>> ngdiff(gramian).tolist(), (gramian @ ngdiff(gramian)).tolist()
([1.0, 0.1], [0.4, 4.0])
>>> bool((gramian @ mollm(gramian) > 0).all())
True
"""

from peft_unlearn.combine._active import Combiner
from peft_unlearn.combine.mollm import mollm
from peft_unlearn.combine.ngdiff import ngdiff
from peft_unlearn.combine.weighted_sum import weighted_sum

__all__ = ["COMBINERS", "mollm", "ngdiff", "weighted_sum"]

COMBINERS: dict[str, Combiner] = {
    "weighted_sum": weighted_sum,
    "ngdiff": ngdiff,
    "mollm": mollm,
}
