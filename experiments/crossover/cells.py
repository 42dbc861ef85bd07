"""r(z), z ~ N(mu, sigma^2): the functions r, the cells of the map, mu(phi) and sigma(phi)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.common.errors import UsageError
from experiments.common.loading import load
from experiments.common.measuring import usage

SHIPPED: Mapping[str, Callable[[Array], Array]] = {
    "constant": jnp.ones_like,
    "linear": lambda phi: phi,
    "exp": jnp.exp,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}


class Function(NamedTuple):
    """r(z; knob), elementwise in z, with hints for integration and display."""

    name: str
    r: Callable[[Array, Any], Array]
    knob: str
    text: str
    """r(z) as text, with the name of the knob instead of its value."""
    knobs: np.ndarray
    """Values of the knob along the map."""
    examples: tuple[float, ...]
    """Example values of the knob. The sums and d/d phi use the last."""
    oscillates: bool = False
    """Whether r oscillates like sin(knob z), so the nodes must be dense enough."""
    breaks: bool = False
    """Whether r has a step or a singularity at 0, towards which the nodes must become denser."""

    def finite(self, knob: Any, order: int) -> Any:
        """Whether `E |r'|^order` is finite: for |z|^p if `order (p - 1) > -1`."""
        return order * (knob - 1) > -1 if self.knob == "p" else np.full(np.shape(knob), True)


def power(z: Array, p: Any) -> Array:
    """|z|^p. The derivative is set to 0 instead of infinity at z = 0, which a float can reach."""
    return jnp.where(z == 0, 0.0, jnp.abs(jnp.where(z == 0, 1.0, z)) ** p)


def chebyshev(most: int, z: Array, degree: Any) -> Array:
    """T_k(z) for a degree k up to `most`. k may be traced: T_{k+1} = 2 z T_k - T_{k-1}."""
    before, now = jnp.ones_like(z), z
    for k in range(1, most):
        before, now = jnp.where(k < degree, now, before), jnp.where(k < degree, 2 * z * now - before, now)
    return now


def functions(settings: Any) -> list[Function]:
    """The functions that the settings name."""
    along = _geometric(settings.frequencies, settings.cells)
    (p_low, p_high), (k_low, k_high), a = settings.powers, settings.degrees, settings.amplitude
    sum_of_two = f"z^2 + {a:g} sin(omega z)" if a != 1 else "z^2 + sin(omega z)"
    sine, sigmoid = (lambda z, w: jnp.sin(w * z)), (lambda z, w: jax.nn.sigmoid(w * z))
    ripple, polynomial = (lambda z, w: z**2 + a * jnp.sin(w * z)), partial(chebyshev, max(k_high, 4))
    known = (
        Function("sine", sine, "omega", "sin(omega z)", along, (1, 10), oscillates=True),
        Function("sigmoid", sigmoid, "omega", "sigmoid(omega z)", along, (1, 10), breaks=True),
        Function("power", power, "p", "|z|^p", np.linspace(p_low, p_high, settings.cells), (2, 1), breaks=True),
        Function("ripple", ripple, "omega", sum_of_two, along, (1, 10), oscillates=True),
        Function("polynomial", polynomial, "k", "T_k(z)", np.arange(k_low, k_high + 1.0), (2, 4)),
    )
    return [function for name in settings.functions for function in known if function.name == name]


class MapCells(NamedTuple):
    """Cells as arrays of one shape: the knob of r, mu, sigma, and the derivatives of mu and sigma with respect to the parameter."""

    knob: Any
    mu: Any
    sigma: Any
    dmu: Any
    dsigma: Any
    phi: Any
    """nan if mu or sigma itself is the parameter."""


def _geometric(ends: tuple[float, float], count: int) -> np.ndarray:
    low, high = ends
    return np.geomspace(low, high, count)


def _phis(settings: Any) -> np.ndarray:
    low, high = settings.phis
    return np.linspace(low, high, settings.cells)


def map_cells(function: Function, settings: Any) -> MapCells:
    """Shape `(2, sigmas, knobs)`: d/d mu, and d/d sigma."""
    sigmas = _geometric(settings.scales, settings.cells)
    d, sigma, knob = np.meshgrid([0.0, 1.0], sigmas, function.knobs, indexing="ij")
    return MapCells(knob, np.full(d.shape, settings.loc), sigma, 1 - d, d, np.full(d.shape, np.nan))


def phi_cells(function: Function, family: "FunctionFamily", settings: Any) -> MapCells:
    """Shape `(phis,)`: d/d phi, for the last example."""
    phi = _phis(settings)
    with jax.enable_x64(True):
        (mu, dmu), (sigma, dsigma) = (np.asarray(family.along(which, phi)) for which in ("mu", "sigma"))
    return MapCells(np.full(phi.shape, function.examples[-1]), mu, sigma, dmu, dsigma, phi)


def example_cells(function: Function, settings: Any) -> MapCells:
    """Shape `(examples,)`: d/d mu at sigma = 1."""
    one = np.ones(len(function.examples))
    return MapCells(np.array(function.examples, float), settings.loc * one, one, one, 0 * one, np.nan * one)


class FunctionFamily(NamedTuple):
    """mu(phi) and sigma(phi): any differentiable functions of a number."""

    mu: Callable[[Array], Array]
    sigma: Callable[[Array], Array]

    def along(self, which: str, phi: np.ndarray) -> tuple[Array, Array]:
        """The values and the derivatives, each of the shape of phi."""
        number = lambda x: jnp.asarray(getattr(self, which)(x), float)
        return jax.vmap(jax.value_and_grad(number))(jnp.asarray(phi))


def families(settings: Any) -> FunctionFamily:
    """mu(phi) and sigma(phi) as named in the settings, tested at every phi.

    Raises:
        UsageError: a name is unknown, does not map a number to a number, or has values that are not allowed.
    """
    family = FunctionFamily(load("--mu", settings.mu, SHIPPED), load("--sigma", settings.sigma, SHIPPED))
    phi, moves = _phis(settings), False
    for which, name in (("mu", settings.mu), ("sigma", settings.sigma)):
        if not callable(getattr(family, which)):
            raise UsageError(f"--{which} {name}: not a function; give a function that maps a number phi to a number")
        with usage(f"--{which} {name}", Exception), jax.enable_x64(True):
            if shape := jax.eval_shape(lambda x, which=which: jnp.asarray(getattr(family, which)(x)), 0.0).shape:
                raise UsageError(f"--{which} {name}: got shape {shape} for one phi; return one number")
            value, slope = (np.asarray(x) for x in family.along(which, phi))
        bad = ~np.isfinite(value) | ~np.isfinite(slope) | ((value <= 0) & (which == "sigma"))
        if bad.any():
            i = bad.argmax()
            want = "positive, and differentiable" if which == "sigma" else "finite, and differentiable"
            raise UsageError(f"--{which} {name}: at phi = {phi[i]:g} it is {value[i]:g} with derivative {slope[i]:g}; it must be "
                             f"{want}; give another --{which} or other --phis")  # fmt: skip
        moves = moves or bool(np.any(slope != 0))
    if not moves:
        raise UsageError(
            f"--mu {settings.mu} --sigma {settings.sigma}: neither depends on phi; give at least one that does"
        )
    return family


def at(tree: Any, which: Any) -> Any:
    return jax.tree.map(lambda x: x[which], tree)
