"""The targets of `experiments.elbo`: log densities of a vector, and a q that is close to each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from scipy import stats
from scipy.optimize import minimize

from experiments.common.errors import UsageError
from experiments.common.loading import load, where_and_what
from experiments.common.measuring import usage

Params = dict[str, Any]
OBSERVATIONS = 256  # rows of the synthetic logistic-regression data
FREEDOM = 10.0  # of Student's t. The variance of a measured variance needs a finite eighth moment
TRIED = 1000  # draws for a first test of a log density

PHIS: dict[str, Callable[[], Any]] = {
    "normal": lambda: dist.Normal(0.0, 1.0),
    "laplace": lambda: dist.Laplace(0.0, 1.0),
    "student_t": lambda: dist.StudentT(FREEDOM),
}
SCIPY = {"normal": stats.norm(), "laplace": stats.laplace(), "student_t": stats.t(FREEDOM)}


class ElboTarget(NamedTuple):
    log_g: Callable[[Array], Any]
    """Maps a vector of D to its log density."""
    mu: np.ndarray
    """A q close to the target: the centre, shape (D,), and the scale, a Cholesky factor of shape (D, D)."""
    C: np.ndarray
    expected: Callable[[ArrayLike, ArrayLike, float], Array] | None = None
    """`E_q[log g]` in closed form, as a function of mu, C and the variance of phi. None if unknown."""


def gaussian(dimension: int, rng: np.random.Generator) -> ElboTarget:
    """N(m, S), where S is the sample covariance of 2 D + 2 vectors. The q close to it has m and the Cholesky factor of S."""
    m = rng.normal(size=dimension)
    A = rng.normal(size=(dimension, 2 * dimension + 2)) / np.sqrt(2 * dimension + 2)
    L = np.linalg.cholesky(A @ A.T)
    W, normaliser = np.linalg.inv(L), dimension / 2 * np.log(2 * np.pi) + np.log(np.diag(L)).sum()
    log_g = lambda z: -jnp.sum((W @ (z - m)) ** 2) / 2 - normaliser
    # E |W (mu + C eps - m)|^2 = |W (mu - m)|^2 + Var(phi) |W C|^2
    expected = lambda mu, C, v: -(jnp.sum((W @ (mu - m)) ** 2) + v * jnp.sum((W @ C) ** 2)) / 2 - normaliser
    return ElboTarget(log_g, m, L, expected)


def logistic(dimension: int, rng: np.random.Generator) -> ElboTarget:
    """The posterior of D weights under N(0, I) given 256 synthetic labels, with all constants. Columns have norm 16/sqrt(D)."""
    X = rng.normal(size=(OBSERVATIONS, dimension)) / np.sqrt(dimension)
    y = rng.random(OBSERVATIONS) < 1 / (1 + np.exp(-X @ rng.normal(size=dimension)))
    signed = np.where(y, 1.0, -1.0)[:, None] * X  # log sigmoid(x z) for a label of 1, log sigmoid(-x z) for 0
    prior = lambda z: -jnp.sum(z**2) / 2 - dimension / 2 * np.log(2 * np.pi)
    log_g = lambda z: jax.nn.log_sigmoid(signed @ z).sum() + prior(z)
    return ElboTarget(log_g, *laplace(log_g, dimension, "logistic"))


TARGETS: dict[str, Any] = {"gaussian": gaussian, "logistic": logistic}


def load_target(name: str, dimension: int, seed: int) -> ElboTarget:
    """The target with this name in D dimensions, or the user's own `module:function`, tested near its mode.

    Raises:
        UsageError: the name is unknown, or the function is not a log density of a vector of D.
    """
    found = load("--target", name, TARGETS)
    if name in TARGETS:
        return found(dimension, np.random.default_rng([seed, dimension]))
    where = f"--target {name} with D = {dimension}"
    if not callable(found):
        raise UsageError(
            f"--target {name}: expected a function, z of shape (D,) -> log density, got {type(found).__name__}"
        )
    with usage(where, Exception):
        value = jax.eval_shape(found, jax.ShapeDtypeStruct((dimension,), jnp.result_type(float)))
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        kind = f"{value.dtype} of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise UsageError(f"{where}: expected one float, got {kind}; sum over the coordinates")
    return ElboTarget(found, *laplace(found, dimension, where))


def laplace(log_g: Callable[[Array], Any], dimension: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The Laplace approximation: the mode, and the Cholesky factor of the inverse negative Hessian there.

    0 and I if there is no curved mode.

    Raises:
        UsageError: log_g raises, or is nan or infinite at 0, where the search starts.
    """
    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(lambda z: -jnp.asarray(log_g(z))))
        try:
            value, at_zero = slope(jnp.zeros(dimension))
            if not np.isfinite(value) or not np.all(np.isfinite(at_zero)):
                raise UsageError(
                    f"{where}: the log density or its gradient is nan or infinite at z = 0; make it finite on all of R^D"
                )
            found = minimize(lambda z: tuple(np.asarray(x, float) for x in slope(z)), np.zeros(dimension), jac=True)
            hessian = np.asarray(jax.jit(jax.hessian(lambda z: -jnp.asarray(log_g(z))))(found.x))
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"{where}: {where_and_what(error)}") from None
    try:
        covariance = np.linalg.inv(np.linalg.cholesky(hessian))
        return found.x, np.linalg.cholesky(covariance.T @ covariance)
    except np.linalg.LinAlgError:  # a hessian of nan, or one that is not positive definite
        return np.zeros(dimension), np.eye(dimension)


def near(target: ElboTarget, distance: float, rng: np.random.Generator) -> Params:
    """The point at which gradients are measured.

    mu is off by `distance` standard deviations in every coordinate. C is scaled by e^-distance, so q is too narrow, as
    at the start of a fit. C also has off-diagonal noise of size `distance` in each row.
    """
    D = len(target.mu)
    signs = np.where(rng.random(D) < 0.5, -1.0, 1.0)
    noise = distance * np.tril(rng.normal(size=(D, D)), -1) / np.sqrt(D)
    C = target.C @ (np.exp(-distance) * np.eye(D) + noise)
    mu = target.mu + distance * target.C @ signs
    below = {"off_diagonal": C[np.tril_indices(D, -1)]} if D > 1 else {}
    return {"mu": mu, "diagonal": np.diag(C), **below}


def factor(params: Params) -> Any:
    """C, lower triangular, from its diagonal and the entries below it (none if D = 1)."""
    C = jnp.diag(params["diagonal"])
    return C.at[jnp.tril_indices(len(C), -1)].set(params["off_diagonal"]) if "off_diagonal" in params else C


def try_target(target: ElboTarget, params: Params, phi: str, where: str) -> None:
    """Raises UsageError if log g is nan or infinite for any of the first draws of q."""
    rng = np.random.default_rng(0)
    eps = SCIPY[phi].rvs(size=(TRIED, len(params["mu"])), random_state=rng)
    z = jnp.asarray(params["mu"] + eps @ np.asarray(factor(params)).T, float)
    with usage(where, Exception):
        values = np.asarray(jax.jit(jax.vmap(target.log_g))(z))
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        example = np.array2string(np.asarray(z[bad[0]][:4]), precision=4)
        more = ", ..." if z.shape[1] > 4 else ""
        raise UsageError(
            f"{where}: the log density is nan or infinite for {bad.size:,} of {TRIED:,} draws of q, e.g. at z = {example}"
            f"{more}; make it finite on all of R^D"
        )
