"""Published values, with their sources: printed numbers, closed forms, and quadrature in 64 bits without rgrad.

Printed numbers are kept as text, because the last digit shows how they were rounded.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma

Vector = NDArray[np.float64]
Function = Callable[[Any], Any]

SOURCES = {
    "post": "Javed 2018, REINFORCE vs Reparameterization Trick",
    "mohamed": "Mohamed, Rosca, Figurnov and Mnih 2020, figures 2 and 3",
    "gal": "Gal 2016, Uncertainty in Deep Learning",
    "naesseth": "Naesseth, Ruiz, Linderman and Blei 2017, Dirichlet",
}

# The mean and the variance of 100 estimates of d/d theta E[x^2], x ~ N(theta, 1), theta = 2, from N samples each, by N.
POST_REPETITIONS = 100
POST = {
    ("mean", "score_function"): {10: "3.841", 100: "3.973", 1_000: "4.030", 10_000: "3.985", 100_000: "3.996"},
    ("mean", "reparameterized"): {10: "3.978", 100: "4.002", 1_000: "3.999", 10_000: "4.004", 100_000: "4.000"},
    ("variance", "score_function"): {10: "6.45", 100: "0.680", 1_000: "0.0869", 10_000: "0.01005", 100_000: "0.000862"},
    ("variance", "reparameterized"): {10: "0.460", 100: "0.0427", 1_000: "0.00334", 10_000: "0.000517", 100_000: "0.0000465"},
}  # fmt: skip

# Variances per sample, by cost and parameter; x ~ N(mu, sigma^2) with mu = 0 and sigma = 1.
GAL = {
    ("x + x^2", "mu"): {"score_function": "17", "reparameterized": "4"},
    ("x + x^2", "sigma"): {"score_function": "84", "reparameterized": "9"},
    ("sin x", "mu"): {"score_function": "0.3351", "reparameterized": "0.1998"},
    ("sin x", "sigma"): {"score_function": "0.8647", "reparameterized": "0.2970"},
    ("sin 10x", "mu"): {"score_function": "0.5", "reparameterized": "50"},
    ("sin 10x", "sigma"): {"score_function": "1", "reparameterized": "50"},
}


def rounding(printed: str) -> float:
    """Half a unit in the last printed digit. 0 for an integer, which is exact."""
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)
    return 10.0**exponent / 2 if exponent < 0 else 0.0


class CostFamily(NamedTuple):
    """A cost f(x; k), its derivative with respect to x, and the values of k that are compared."""

    text: str
    cost: Callable[[float, Any], Any]
    slope: Callable[[float, Any], Any]
    ks: tuple[float, ...]


MOHAMED = {
    "square": CostFamily("(x - {})^2", lambda k, x: (x - k) ** 2, lambda k, x: 2 * (x - k), (-3, -2, -1, 0, 1, 2, 3)),
    "exp": CostFamily("exp(-{} x^2)", lambda k, x: np.exp(-k * x**2), lambda k, x: -2 * k * x * np.exp(-k * x**2), (0.1, 1, 10)),
    "cos": CostFamily("cos({} x)", lambda k, x: np.cos(k * x), lambda k, x: -k * np.sin(k * x), (0.5, 1, 5)),
}  # fmt: skip

PLAIN, MEAN, OPTIMAL = "score_function", "score_function, mean baseline", "score_function, optimal baseline"


def mohamed_variances(family: str, k: float) -> dict[str, dict[str, float]]:
    """The variance per sample by estimator and by `mu` or `sigma` (both 1): the curves of the figures at k.

    Closed form for (x - k)^2, with d = 1 - k. Quadrature for the others.
    """
    if family == "square":
        d = 1 - k
        return {
            PLAIN: {"mu": d**4 + 14 * d**2 + 15, "sigma": 2 * d**4 + 60 * d**2 + 74},
            MEAN: {"mu": 8 * d**2 + 10, "sigma": 40 * d**2 + 56},
            OPTIMAL: {"mu": 8 * d**2 + 6, "sigma": 40 * d**2 + 24},
            "reparameterized": {"mu": 4.0, "sigma": 4 * d**2 + 8},
            "measure_valued": {"mu": 16 / (2 * np.pi) * (2 - np.pi / 2) * d**2, "sigma": 4 * d**2 + 4},
        }
    cost, slope = MOHAMED[family].cost, MOHAMED[family].slope
    return variances(lambda x: cost(k, x), lambda x: slope(k, x), mu=1.0)


def variances(f: Function, slope: Function, mu: float, sigma: float = 1.0) -> dict[str, dict[str, float]]:
    """The variances per sample of the gradient estimates of E[f(x)], x ~ N(mu, sigma^2), by quadrature.

    Sources: Mohamed et al. 2020, sections 4 to 7 (the baselines are constants); measure-valued: table 1, coupled.
    """
    e, normal = _rule(-12, 12, lambda e: np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi))
    w, rayleigh = _rule(0, 12, lambda w: w * np.exp(-(w**2) / 2))
    m, maxwell = _rule(-12, 12, lambda m: m**2 * np.exp(-(m**2) / 2) / np.sqrt(2 * np.pi))
    u, uniform = _rule(0, 1, np.ones_like)
    x, scores = mu + sigma * e, {"mu": e / sigma, "sigma": (e**2 - 1) / sigma}
    constants = baselines(f, mu, sigma)
    found = {
        name: {p: _variance((f(x) - constants[name][p]) * score, normal) for p, score in scores.items()}
        for name in (PLAIN, MEAN, OPTIMAL)
    }
    by_mu = (f(mu + sigma * w) - f(mu - sigma * w)) / (sigma * np.sqrt(2 * np.pi))
    by_sigma = (f(mu + sigma * m[:, None]) - f(mu + sigma * m[:, None] * u)) / sigma
    return found | {
        "reparameterized": {"mu": _variance(slope(x), normal), "sigma": _variance(slope(x) * e, normal)},
        "measure_valued": {
            "mu": _variance(by_mu, rayleigh),
            "sigma": _variance(by_sigma.ravel(), np.outer(maxwell, uniform).ravel()),
        },
    }


def baselines(f: Function, mu: float, sigma: float = 1.0) -> dict[str, dict[str, float]]:
    """The constant baseline by estimator and parameter: 0, E[f], and the optimal E[f s^2] / E[s^2] with the score s."""
    e, w = _rule(-12, 12, lambda e: np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi))
    values, squares = f(mu + sigma * e), {"mu": e**2, "sigma": (e**2 - 1) ** 2}
    return {
        PLAIN: {"mu": 0.0, "sigma": 0.0},
        MEAN: dict.fromkeys(squares, float(w @ values)),
        OPTIMAL: {p: float(w @ (values * s2) / (w @ s2)) for p, s2 in squares.items()},
    }


_legendre = cache(np.polynomial.legendre.leggauss)


def _rule(low: float, high: float, density: Callable[[Vector], Vector]) -> tuple[Vector, Vector]:
    """Nodes and weights of an expectation: Gauss-Legendre, exact up to rounding for fewer than 100 periods."""
    nodes, weights = _legendre(400)
    x = low + (high - low) * (nodes + 1) / 2
    return x, (high - low) / 2 * weights * density(x)


def _variance(values: Vector, weights: Vector) -> float:
    """The variance, rounded to 12 places, so a zero variance is exactly 0."""
    return round(float(weights @ values**2 - (weights @ values) ** 2), 12)


NAESSETH_SHAPES = (1.5, 2.0, 3.0)  # of the first component


def naesseth_counts() -> NDArray[np.int64]:
    """How often each of the 100 components was observed, as in the authors' code (NumPy's legacy generator, seed 0)."""
    generator = np.random.RandomState(0)
    return generator.multinomial(100, generator.dirichlet(np.ones(100)))


def naesseth_gradient(first: float) -> float:
    """d ELBO / d alpha_1 at `alpha_1 = first`, if all others are those of the posterior. 0 at the optimum."""
    posterior = 1.0 + naesseth_counts()
    total = posterior[1:].sum() + first
    return float((posterior[0] - first) * (polygamma(1, first) - polygamma(1, total)))
