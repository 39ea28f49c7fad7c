"""Combiners: pure functions from the Gram matrix of the objectives' gradients to their weights.

With G the m x n matrix whose rows are the gradients of m objectives (losses to *minimize*) over the n adapter parameters, a combiner maps
the (m, m) matrix GG' in fp64, and the objectives' coefficients, to weights w of shape (m,); the optimizer is given d = w'G. It needs
nothing else, so distributed training only has to sum gradients. Each is a file of this folder, known to recipes, checks and cards by its `@combiner`
decorator (docs/howto/add-a-combiner.md).

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

from typing import TYPE_CHECKING

from peft_unlearn.combine._active import on_active
from peft_unlearn.combine._sides import on_sides
from peft_unlearn.util.registry import COMBINERS

if TYPE_CHECKING:  # type checkers take a file for a function of its name otherwise; at run time nothing needs these lines
    from peft_unlearn.combine.blur import blur as blur
    from peft_unlearn.combine.gru import gru as gru
    from peft_unlearn.combine.mgda import mgda as mgda
    from peft_unlearn.combine.mollm import mollm as mollm
    from peft_unlearn.combine.ngdiff import ngdiff as ngdiff
    from peft_unlearn.combine.pcgrad import pcgrad as pcgrad
    from peft_unlearn.combine.weighted_sum import weighted_sum as weighted_sum

# Each combiner under its name, over the submodule of that name. Those of other packages are in COMBINERS alone.
globals().update({name: combiner.function for name, combiner in COMBINERS.own.items()})

__all__ = ["COMBINERS", "on_active", "on_sides", *COMBINERS.own]  # names that the files of this folder register
