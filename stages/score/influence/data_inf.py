"""DataInf: influence functions with an inverse Hessian in closed form.

DataInf: DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and Diffusion Models
(Kwon et al. 2023, arXiv:2310.00902; ykwon0407/DataInf).

As in the paper: the inverse of the mean of (g g' + lambda I) is replaced by the mean of the
inverses, each in closed form (Sherman and Morrison).

As in the authors' code: for each layer lambda is the mean over rows of the mean of g^2, over 10.

Ours: a column of vectors is a layer; where vectors are projections, lambda is that of the
projections. The sign is turned: above 0 a row lowers the losses of the target.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.types import NonEmpty, PositiveFloat, option_group
from stages._common.option_types import Distinct

Floats = NDArray[np.float64]


@option_group
class DataInf:
    """Influence functions with a closed form of the inverse Hessian.

    Args:
        vectors: The columns of gradients, on both edges, one for each layer; not normalized.
        damping: What the mean square of the gradients is multiplied by for lambda.
    """

    name: Literal["datainf"] = "datainf"
    vectors: Annotated[tuple[str, ...], NonEmpty, Distinct] = ("vector",)
    damping: PositiveFloat = 0.1


def inverse_hessian_product(gradients: Floats, vector: Floats, damping: float) -> Floats:
    """The mean over rows of (g g' + lambda I)^-1 v.

    In: g1 = (1, 0), g2 = (1, 1) and v = (1, 2), where lambda is .075.
    Out: (-2.50677, 17.02811).

    Args:
        gradients: Of one layer, shape (rows, values).
        vector: Shape (values,).
        damping: lambda over the mean square of the gradients.

    Example:
        >>> product = inverse_hessian_product(np.array([[1.0, 0], [1, 1]]), np.array([1.0, 2]), 0.1)
        >>> product.round(5).tolist()
        [-2.50677, 17.02811]
    """
    penalty = damping * float((gradients**2).mean())
    if penalty == 0:  # no row has a gradient here
        return np.zeros_like(vector)
    factors = gradients @ vector / (penalty + (gradients**2).sum(axis=1))
    product: Floats = (vector - gradients.T @ factors / len(gradients)) / penalty
    return product


def data_inf(gradients: Floats, target: Floats, damping: float) -> Floats:
    """How much each row lowers the losses of the target, for one layer.

    Args:
        gradients: Of the rows, shape (rows, values).
        target: Of the target, shape (target rows, values).
        damping: As in `inverse_hessian_product`.
    """
    influence: Floats = gradients @ inverse_hessian_product(gradients, target.mean(axis=0), damping)
    return influence
