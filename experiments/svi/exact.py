"""The exact ELBOs of the two guides, in 64 bits, and the guides that maximise them."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from experiments.svi.model import LOG_SD, MEANS, ODDS

Params = Mapping[str, Any]  # of the guide, constrained, by name
PRIORS = {"odds": ODDS, "mean": MEANS, "sd": LOG_SD}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
POINTS = 6  # of the quadrature in each of the four globals. The marginal bound is then exact to about 1e-4 nats


def log_normal(x: Any, loc: Any, scale: Any) -> Any:
    return -(((x - loc) / scale) ** 2) / 2 - jnp.log(scale) - jnp.log(2 * jnp.pi) / 2


def divergence(p: Params) -> Array:
    """`KL(q || p)` of the globals. For "sd", that of its logarithm."""
    total = jnp.zeros(())
    for name, (loc, scale) in PRIORS.items():
        m, s = p[f"{name}_loc"], p[f"{name}_scale"]
        total += jnp.sum((s**2 + (m - jnp.array(loc)) ** 2) / (2 * scale**2) - jnp.log(s / scale) - 0.5)
    return total


def scores(p: Params, x: Array) -> Array:
    """`E_q[log p(z_i, x_i | globals)]` for both values of z_i, shape (rows, 2).

    In closed form, except for the integral over the log odds.
    """
    m, s, a, b = p["mean_loc"], p["mean_scale"], p["sd_loc"], p["sd_scale"]
    # For log sd ~ N(a, b^2), E[log sd] = a and E[1/sd^2] = exp(2 b^2 - 2 a).
    square = (x[:, None] - m) ** 2 + s**2
    likely = -a - jnp.exp(2 * b**2 - 2 * a) * square / 2 - jnp.log(2 * jnp.pi) / 2
    odds = p["odds_loc"] + p["odds_scale"] * NODES
    prior = jnp.stack([jnp.dot(WEIGHTS, jax.nn.log_sigmoid(sign * odds)) for sign in (-1, 1)])
    return prior + likely


def elbo(p: Params, x: Array) -> Array:
    """The ELBO of the mean-field guide."""
    log_q = jnp.stack([jax.nn.log_sigmoid(-p["logits"]), jax.nn.log_sigmoid(p["logits"])], 1)
    return jnp.sum(jnp.exp(log_q) * (scores(p, x) - log_q)) - divergence(p)


def elbo_of_globals(p: Params, x: Array) -> Array:
    """The same with the best logits, which are `scores(p, x)[:, 1] - scores(p, x)[:, 0]`."""
    return jnp.sum(jax.nn.logsumexp(scores(p, x), axis=1)) - divergence(p)


def marginal_elbo(p: Params, x: Array) -> Array:
    """The ELBO of the guide without z, by Gauss-Hermite quadrature in all four globals."""
    one, weights = np.polynomial.hermite_e.hermegauss(POINTS)
    eps = np.array(list(itertools.product(one, repeat=4)))
    weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=4)), axis=1)
    loc, scale = globals_of(p)
    likely = log_mixture(loc + scale * eps, x)
    return jnp.dot(weight, likely.sum(1)) - divergence(p)


def globals_of(p: Params) -> tuple[Array, Array]:
    """Locations and scales of the log odds, both means and the log standard deviation under the guide, shape (4,)."""
    flat = lambda part: jnp.concatenate([jnp.atleast_1d(p[f"{name}_{part}"]) for name in PRIORS])
    return flat("loc"), flat("scale")


def joint(theta: Array, x: Array) -> Array:
    """`log p(z_i, x_i | theta)` for globals of shape (draws, 4) as in `globals_of`: shape (draws, rows, 2)."""
    odds, mean, log_sd = theta[:, 0, None], theta[:, None, 1:3], theta[:, 3, None, None]
    prior = jnp.stack([jax.nn.log_sigmoid(-odds), jax.nn.log_sigmoid(odds)], -1)
    return prior + log_normal(x[:, None], mean, jnp.exp(log_sd))


def log_mixture(theta: Array, x: Array) -> Array:
    """`log p(x_i | theta)`, shape (draws, rows)."""
    return jax.nn.logsumexp(joint(theta, x), axis=-1)


def assignments(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`P(z_i = 1 | x)` if the globals have these draws as their posterior. Shape (rows,)."""
    with jax.enable_x64(True):
        each = jax.jit(lambda t, x: jax.nn.softmax(joint(t, x), -1)[..., 1].mean(0))
        return np.asarray(each(jnp.asarray(theta, float), jnp.asarray(x, float)))


BOUNDS: Mapping[bool, Callable[[Params, Array], Array]] = {False: elbo, True: marginal_elbo}
"""By whether z is summed out of the model."""


def unconstrained(p: Params) -> dict[str, Any]:
    """The logarithms of the scales, and the rest, as SVI optimises them."""
    return {k: jnp.log(v) if k.endswith("_scale") else jnp.asarray(v) for k, v in p.items()}


def constrained(u: Params) -> dict[str, Any]:
    return {k: jnp.exp(v) if k.endswith("_scale") else v for k, v in u.items()}


def wide(tree: Any) -> Any:
    """Arrays in 64 bits, if these are enabled."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), tree)


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(bound: Callable[[Params, Array], Array], u: Params, x: Array) -> Any:
    return jax.value_and_grad(lambda u: -bound(constrained(u), x))(u)


def exact_gradient(u: Params, x: np.ndarray, marginal: bool) -> dict[str, np.ndarray]:
    """The gradient of the loss, minus the ELBO, in the unconstrained parameters."""
    with jax.enable_x64(True):
        found = _loss_and_gradient(BOUNDS[marginal], wide(dict(u)), wide(x))[1]
        return {name: np.asarray(g) for name, g in found.items()}


def optimum(u: Params, x: np.ndarray, marginal: bool) -> tuple[dict[str, np.ndarray], float]:
    """The unconstrained parameters that maximise the ELBO, by BFGS from `u` in the globals, and the ELBO there."""
    names = [name for name in u if name != "logits"]
    shapes = [np.shape(u[name]) for name in names]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    bound = marginal_elbo if marginal else elbo_of_globals

    def apart(flat: np.ndarray) -> dict[str, np.ndarray]:
        return {n: part.reshape(s) for n, s, part in zip(names, shapes, np.split(flat, ends[:-1]), strict=True)}

    with jax.enable_x64(True):
        data = wide(x)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = _loss_and_gradient(bound, apart(flat), data)
            return float(value), np.concatenate([np.ravel(gradient[name]) for name in names])

        start = np.concatenate([np.ravel(np.asarray(u[name], np.float64)) for name in names])
        found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-6})
        best = apart(found.x)
        if not marginal:
            both = np.asarray(scores(constrained(best), data))
            best["logits"] = both[:, 1] - both[:, 0]
        return best, -float(found.fun)


def elbos(path: Params, x: np.ndarray, marginal: bool) -> np.ndarray:
    """The exact ELBO of many guides: constrained parameters with any leading axes, of which "odds_loc" has no others."""
    lead = np.shape(path["odds_loc"])
    with jax.enable_x64(True):
        flat = {k: wide(v).reshape(-1, *np.shape(v)[len(lead) :]) for k, v in path.items()}
        return np.asarray(_each_elbo(BOUNDS[marginal], flat, wide(x))).reshape(lead)


@partial(jax.jit, static_argnums=0)
def _each_elbo(bound: Callable[[Params, Array], Array], flat: Params, x: Array) -> Array:
    return jax.lax.map(lambda p: bound(p, x), flat)
