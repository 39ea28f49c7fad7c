"""The best of k draws, from the values of more than k."""

from collections.abc import Sequence
from math import comb

import numpy as np


def best_of(drawn: Sequence[float | None], k: int) -> float | None:
    """Unbiased estimate of E[max of k draws] from the values of K >= k draws: the mean of the maximum over all subsets of k.

    With v_(1) <= ... <= v_(K), the i-th is the maximum of C(i-1, k-1) of the C(K, k) subsets. Of k = 1 the mean, of k = K the maximum; of 0 and 1 it
    is pass@k (Chen et al., arXiv 2107.03374). None if a value is; NaN if a value is.
    """
    if None in drawn:
        return None
    weights = [comb(i, k - 1) / comb(len(drawn), k) for i in range(len(drawn))]
    return float(np.dot(weights, np.sort(np.array(drawn, np.float64))))
