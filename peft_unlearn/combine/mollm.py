"""The common descent direction of MOLLM, from the dual basis of the gradients (DS-MGDA)."""

import torch
from torch import Tensor

from peft_unlearn.combine._active import on_active
from peft_unlearn.util.registry import combiner

# Relative cut-offs of the pseudo-inverse, on the eigenvalues of the cosine matrix. Gradients within some 8 degrees of one another count as one
# direction where that still lowers every loss. Kept apart, a retain cross-entropy and a KL on the same rows (cosine .9995 after 40 steps) leave
# only what they differ in as their dual vectors: nothing then holds the retain loss against the forgetting, which went from .04 to 2.1
# (measured, docs/log.md; .1 with the cut-off).
PARALLEL = 1e-2
# Rounding of relative size 1e-6 in fp32 gradients turns them by an angle of 1e-6, and moves an eigenvalue by the square of it: gradients that
# are dependent within this cut-off cannot be told from dependent ones.
ROUNDING = 1e-12


@combiner(paper="2412.20412")
@on_active
def mollm(gramian: Tensor, coefs: Tensor) -> Tensor:
    """Common descent: each objective pulls in a direction that leaves all others alone.

    d = sum_i c_i g_i*/||g_i*||, rescaled to ||sum_i c_i g_i||, with c = coefs / sum(coefs).

    g_i* is g_i minus its projection on the span of the other gradients, the direction of row i of the dual basis (GG')^-1 G. It is
    orthogonal to every other gradient, so each term lowers one loss and leaves the others alone: g_i·d > 0 for every gradient that does
    not lie in the span of the others. A preconditioned optimizer such as Adam does not keep that property.

    The paper's own formula could not be read: this is a reading of its "dual space", whose common descent is tested.

    Dependent gradients, and nearly parallel ones: the pseudo-inverse makes parallel gradients one direction that all of them share, and lets
    opposite ones cancel by their coefficients, as a sum would, while the independent gradients still descend. If everything cancels there is
    no common descent direction, and all weights are 0.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64. An objective whose gradient is at most 1e-4 of the largest is left out (weight 0); all NaN where the Gram matrix
        holds a non-finite entry.

    >>> mollm(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]))
    tensor([3.7749, 0.4719], dtype=torch.float64)

    Source: Pan et al., 2025, arXiv 2412.20412.
    """
    c = coefs / coefs.sum()
    norms = gramian.diagonal().sqrt()
    cosines = gramian / norms.outer(norms)  # UU', rows of U: g_i / ||g_i||
    for cutoff in (PARALLEL, ROUNDING):
        dual: Tensor = torch.linalg.pinv(cosines, rtol=cutoff, hermitian=True)  # row i: g_i*, up to length, over the rows of U
        d = c @ (dual / dual.diagonal().sqrt()[:, None])  # sum_i c_i g_i*/||g_i*||, for dual_ii is the squared length of row i
        if (cosines @ d > ROUNDING).all():  # g_i·d; of what cancels, rounding may leave a positive rest
            break
    length = _length(d, cosines)
    if length <= ROUNDING:
        return torch.zeros_like(norms)
    return _length(c, gramian) / length * d / norms


def _length(weights: Tensor, gramian: Tensor) -> Tensor:
    """||weights' G||; the clamp takes the rounding of a sum that cancels."""
    return (weights @ gramian @ weights).clamp(min=0.0).sqrt()
