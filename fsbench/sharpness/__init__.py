"""Sharpness of a minimum, by every definition of four papers; usable without the rest of fsbench.

risk = Risk(model, loss_fn, batches); hessian_trace(risk) and so on return an `Estimate` (or a `Diagonal`). The
examples in their docstrings are of the risk in that of `Risk`.
"""

from fsbench.sharpness.adversarial_perturbation import adversarial_perturbation
from fsbench.sharpness.average_case import average_case_sharpness
from fsbench.sharpness.derivatives.logit_hessian import GaussNewtonWarning
from fsbench.sharpness.derivatives.surrogate_loss import normalized_softmax_cross_entropy
from fsbench.sharpness.diagonal import difference_diagonals, hessian_diagonal
from fsbench.sharpness.epsilon_sharpness import epsilon_sharpness
from fsbench.sharpness.estimate import Diagonal, Estimate, Refused
from fsbench.sharpness.fisher_determinant import fisher_log_determinant
from fsbench.sharpness.fisher_rao import fisher_rao_norm
from fsbench.sharpness.fisher_trace import fisher_trace
from fsbench.sharpness.frobenius_norm import hessian_frobenius_norm
from fsbench.sharpness.gradient_norm import gradient_norm
from fsbench.sharpness.gradient_snr import gradient_snr
from fsbench.sharpness.input_robustness import input_robustness
from fsbench.sharpness.matrix_normalized import matrix_normalized_sharpness
from fsbench.sharpness.minimum import minimum_sharpness
from fsbench.sharpness.normalized import normalized_sharpness
from fsbench.sharpness.pacbayes_sigma import pacbayes_sigma
from fsbench.sharpness.rescaling.homogeneous_operations import NotInvariantWarning
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.spectral_density import SpectralDensity, spectral_density
from fsbench.sharpness.spectral_radius import hessian_spectral_radius
from fsbench.sharpness.top_eigenvalues import hessian_top_eigenpairs, hessian_top_eigenvalues
from fsbench.sharpness.trace import hessian_trace
from fsbench.sharpness.worst_case import worst_case_sharpness
from fsbench.sharpness.worst_case_apgd import worst_case_sharpness_apgd

__all__ = [
    "Diagonal",
    "Estimate",
    "GaussNewtonWarning",
    "NotInvariantWarning",
    "Refused",
    "Risk",
    "SpectralDensity",
    "adversarial_perturbation",
    "average_case_sharpness",
    "difference_diagonals",
    "epsilon_sharpness",
    "fisher_log_determinant",
    "fisher_rao_norm",
    "fisher_trace",
    "gradient_norm",
    "gradient_snr",
    "hessian_diagonal",
    "hessian_frobenius_norm",
    "hessian_spectral_radius",
    "hessian_top_eigenpairs",
    "hessian_top_eigenvalues",
    "hessian_trace",
    "input_robustness",
    "matrix_normalized_sharpness",
    "minimum_sharpness",
    "normalized_sharpness",
    "normalized_softmax_cross_entropy",
    "pacbayes_sigma",
    "spectral_density",
    "worst_case_sharpness",
    "worst_case_sharpness_apgd",
]
