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

Two more treat objective 0, the forget objective, apart from the sum of the others, which hold the retain set. GRU gives the retain side what
it would have had alone, BLUR the forget side; PCGrad bends each away from the other, and MGDA takes the shortest vector between them.

>>> (gramian @ gru(gramian)).tolist(), (gramian @ blur(gramian)).tolist()
([-3.25, 64.0], [1.0, 44.0])
>>> (gramian @ pcgrad(gramian)).tolist(), (gramian @ mgda(gramian)).round(decimals=3).tolist()
([0.75, 48.0], [0.658, 0.658])
"""

from peft_unlearn.combine._active import Combiner
from peft_unlearn.combine.blur import blur
from peft_unlearn.combine.gru import gru
from peft_unlearn.combine.mgda import mgda
from peft_unlearn.combine.mollm import mollm
from peft_unlearn.combine.ngdiff import ngdiff
from peft_unlearn.combine.pcgrad import pcgrad
from peft_unlearn.combine.weighted_sum import weighted_sum

__all__ = ["COMBINERS", "UNIT", "blur", "gru", "mgda", "mollm", "ngdiff", "pcgrad", "weighted_sum"]

COMBINERS: dict[str, Combiner] = {
    "weighted_sum": weighted_sum,
    "ngdiff": ngdiff,
    "mollm": mollm,
    "gru": gru,
    "blur": blur,
    "mgda": mgda,
    "pcgrad": pcgrad,
}
UNIT = ("ngdiff",)  # whose objectives pull with a unit vector each, however near they are to their goals
