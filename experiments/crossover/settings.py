"""Does the reparameterization trick always have a lower variance than REINFORCE? Maps of where it does.

python -m experiments.crossover
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from experiments.common.settings import ONCE, ExperimentSettings

CLOSED_FORM = 1e-8  # largest relative error of quadrature against the closed forms of the sine
LIMIT = 5.0  # measurement and quadrature disagree if |z| is larger. By chance: once in 1.7 million normal values
SHOWN = 4  # values of phi in the table
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
    """The variance of REINFORCE divided by that of the reparameterization trick, for r(z), z ~ N(mu, sigma^2).

    sine: sin(omega z); sigmoid: a step as omega grows; power: |z|^p; ripple: z^2 + a sin(omega z); polynomial: the
    Chebyshev polynomial of degree k. There are maps over omega (or p, or k) and sigma, for d/d mu and d/d sigma. There
    are lines for d/d phi, with any mu(phi) and sigma(phi), and for sums of r over many coordinates. All values are
    exact, by quadrature. Some are also measured, as a check.

    The exit status is 1 if the two disagree (|z| > 5), or if quadrature for the sine is off by more than 1e-8.
    """

    functions: Annotated[tuple[Name, ...], Field(min_length=1), ONCE] = (
        "sine",
        "sigmoid",
        "power",
        "ripple",
        "polynomial",
    )
    """Any of sine, sigmoid, power, ripple and polynomial."""
    frequencies: Annotated[tuple[Positive, Positive], AfterValidator(_increasing)] = (0.1, 30.0)
    """Range of omega, for sine, sigmoid and ripple."""
    powers: Annotated[tuple[Power, Power], AfterValidator(_increasing)] = (0.2, 5.0)
    """Range of p."""
    degrees: Annotated[tuple[Degree, Degree], AfterValidator(_increasing)] = (1, 12)
    """Range of the degree of the polynomial, integers."""
    scales: Annotated[tuple[Positive, Positive], AfterValidator(_increasing)] = (0.1, 10.0)
    """Range of sigma."""
    loc: Finite = 0.0
    """mu in the maps."""
    amplitude: Finite = 1.0
    """Amplitude a of the ripple."""
    cells: Annotated[int, Field(ge=3, le=101)] = 25
    """Cells along each axis of a map, an integer (for the polynomial: one per degree)."""
    mu: str = "linear"
    """mu(phi): constant (1), linear, exp, softplus, tanh, or your own as module:function."""
    sigma: str = "softplus"
    """sigma(phi), with the same choices as --mu. It must be positive."""
    phis: Annotated[tuple[Finite, Finite], AfterValidator(_increasing)] = (-3.0, 3.0)
    """Range of phi."""
    dimensions: Annotated[tuple[Annotated[int, Field(ge=1, le=2**14)], ...], Field(min_length=1), ONCE] = (
        1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024,
    )  # fmt: skip
    """Numbers D of coordinates over which r is summed, integers."""
    checked: Annotated[int, Field(ge=1, le=101)] = 4
    """Points along each axis at which the variance is also measured, an integer."""
    replicates: Annotated[int, Field(ge=1_000, lt=2**31)] = 100_000
    """Independent one-sample gradients behind each measured variance, an integer. The sums use an eighth of them."""
