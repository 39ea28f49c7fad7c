"""Combiners: pure functions from the Gram matrix of the objectives' gradients to their weights.

With G the m x n matrix whose rows are the gradients of m objectives (losses to *minimise*) over the n adapter parameters, a combiner maps
the (m, m) matrix GG' in fp64, and the objectives' coefficients, to weights w of shape (m,); the optimiser is given d = w'G. It needs
nothing else, so distributed training only has to sum gradients.

Two objectives that pull against each other, the second with a gradient eight times as long. The sum follows the longer one and raises the
first loss; NGDiff and MOLLM lower both: the entries of GG'w are g_i·d.

>>> import torch
>>> gramian = torch.tensor([[1.0, -4.0], [-4.0, 64.0]], dtype=torch.float64)
>>> weighted_sum(gramian).tolist(), (gramian @ weighted_sum(gramian)).tolist()
([1.0, 1.0], [-3.0, 60.0])
>>> ngdiff(gramian).tolist(), (gramian @ ngdiff(gramian)).tolist()
([1.0, 0.125], [0.5, 4.0])
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
