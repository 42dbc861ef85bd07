"""Has the reparameterization trick always a lower variance than REINFORCE? The map of where it has, and where it has not.

python -m experiments.crossover
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from experiments.common.settings import ONCE, ExperimentSettings

CLOSED_FORM = 1e-8  # relatively, how far quadrature may be from the closed forms of the sine
LIMIT = 5.0  # |z| beyond which measurement and quadrature disagree: by accident, once in 1.7 million that are normal
SHOWN = 4  # phis in the table
VARIANCES = ("score_function", "best_constant", "reparameterized")


def _increasing(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if not ends[0] < ends[1]:
        raise ValueError(f"{ends[0]:g} {ends[1]:g}: the first end must be below the second")
    return ends


Name = Literal["sine", "sigmoid", "power", "ripple", "polynomial"]
Positive = Annotated[float, Field(ge=1e-3, le=1e4)]
Power = Annotated[float, Field(ge=0.01, le=20)]
Degree = Annotated[int, Field(ge=1, le=24)]
Finite = Annotated[float, Field(ge=-1e3, le=1e3)]


class CrossoverSettings(ExperimentSettings):
    """The variance of REINFORCE over that of the reparameterization trick, for r(z), z ~ N(mu, sigma^2).

    sine: sin(omega z); sigmoid: a step as omega grows; power: |z|^p; ripple: z^2 + a sin(omega z); polynomial: Chebyshev's
    of degree k. Maps over omega (or p, or k) and sigma for d/d mu and d/d sigma; d/d phi for any mu(phi) and sigma(phi);
    and sums of r over many coordinates. Exact by quadrature, and measured in some places as a check.

    Exit status 1 where the two disagree: |z| > 5, or, for the sine, quadrature is further than 1e-8 from its closed form.
    """

    functions: Annotated[tuple[Name, ...], Field(min_length=1), ONCE] = (
        "sine",
        "sigmoid",
        "power",
        "ripple",
        "polynomial",
    )
    """Of sine, sigmoid, power, ripple and polynomial."""
    frequencies: Annotated[tuple[Positive, Positive], AfterValidator(_increasing)] = (0.1, 30.0)
    """From which omega to which, for sine, sigmoid and ripple."""
    powers: Annotated[tuple[Power, Power], AfterValidator(_increasing)] = (0.2, 5.0)
    """From which p to which."""
    degrees: Annotated[tuple[Degree, Degree], AfterValidator(_increasing)] = (1, 12)
    """From which degree of the polynomial to which, integers."""
    scales: Annotated[tuple[Positive, Positive], AfterValidator(_increasing)] = (0.1, 10.0)
    """From which sigma to which."""
    loc: Finite = 0.0
    """mu, in the maps."""
    amplitude: Finite = 1.0
    """a, of the ripple."""
    cells: Annotated[int, Field(ge=3, le=101)] = 25
    """How many cells each axis of a map has (the polynomial's: one for each degree), an integer."""
    mu: str = "linear"
    """mu(phi): constant (1), linear, exp, softplus, tanh, or your own as module:function."""
    sigma: str = "softplus"
    """sigma(phi), likewise; positive."""
    phis: Annotated[tuple[Finite, Finite], AfterValidator(_increasing)] = (-3.0, 3.0)
    """From which phi to which."""
    dimensions: Annotated[tuple[Annotated[int, Field(ge=1, le=2**14)], ...], Field(min_length=1), ONCE] = (
        1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024,
    )  # fmt: skip
    """D, of r summed over D coordinates, integers."""
    checked: Annotated[int, Field(ge=1, le=101)] = 4
    """In how many places along each axis the variance is measured too, an integer."""
    replicates: Annotated[int, Field(ge=1_000, lt=2**31)] = 100_000
    """How many independent gradients, of one sample each, it is measured over (an eighth of it for the sums), an integer."""
