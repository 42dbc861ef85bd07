"""The built-in problems by name. Each has `distribution(params)`, `objective(params, x)` and default `params`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist

import rgrad


class ShippedProblem(NamedTuple):
    """Minimise `E[objective(params, x)]`, `x ~ distribution(params)`, over params."""

    distribution: Callable[[Any], Any]
    objective: Callable[[Any, Any], Any]
    params: Mapping[str, Any]
    wrt: tuple[str, ...] = ()


def normal(params: Any) -> dist.Distribution:
    return dist.Normal(params["loc"], params["scale"])


class Quadratic:
    """The question of the blog post in d dimensions: `E sum x^2`, x ~ N(loc, scale^2 I)."""

    wrt = ("loc",)

    def __init__(self, d: int):
        self.params = {"loc": [2.0] * d, "scale": 1.0}

    def of_dimension(self, d: int) -> "Quadratic":
        return Quadratic(d)

    def distribution(self, params: Any) -> dist.Distribution:
        return dist.Normal(params["loc"], params["scale"]).to_event(1)

    def objective(self, params: Any, x: Any) -> Any:
        return jnp.sum(x**2)


PROBLEMS: dict[str, rgrad.Problem] = {
    # The blog post: minimise E[x^2], x ~ N(theta, 1), over theta. Variances per sample: 87 (score function) and 4.
    "square": ShippedProblem(normal, lambda params, x: x**2, {"loc": 2.0, "scale": 1.0}, wrt=("loc",)),
    # The same in any number of dimensions: `experiments.sweep --problem quadratic --axes dimension=1,10,100`.
    "quadratic": Quadratic(2),
    # REINFORCE has the lower variance (Gal 2016): 0.5 against 50 per sample, at loc 0 and scale 1.
    "sine": ShippedProblem(
        normal,
        lambda params, x: jnp.sin(params["frequency"] * x),
        {"loc": 0.0, "scale": 1.0, "frequency": 10.0},
        wrt=("loc", "scale"),
    ),
    # The objective has no useful gradient: reparameterization gives 0, the truth is 0.38.
    "step": ShippedProblem(
        normal, lambda params, x: jnp.where(x > 0, 1.0, 0.0), {"loc": 0.3, "scale": 1.0}, wrt=("loc",)
    ),
    # A quadratic in two dimensions, under a normal with full covariance.
    "correlated": ShippedProblem(
        lambda params: dist.MultivariateNormal(params["loc"], scale_tril=params["scale_tril"]),
        lambda params, x: 0.5 * jnp.sum(x**2),
        {"loc": [1.0, 1.0], "scale_tril": [[1.0, 0.0], [0.5, 1.0]]},
    ),
    # One bit (Tucker et al. 2017). It is discrete, so it cannot be reparameterized.
    "bernoulli": ShippedProblem(
        lambda params: dist.Bernoulli(probs=params["probs"]),
        lambda params, x: (x - params["target"]) ** 2,
        {"probs": 0.5, "target": 0.45},
        wrt=("probs",),
    ),
}
