"""Reparameterization through rejection sampling: Gamma, Beta and Dirichlet by the Gamma sampler's own noise."""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.draws import WithKey, name_of
from rgrad.estimators.generalized import through_noise
from rgrad.protocols import Objective
from rgrad.standardised import Standardised, to_simplex


def rejection(f: Objective, q: Any, key: Array, n: int, *, augmentation: int = 1) -> Array:
    """The proposal of a rejection sampler is a map of noise; what is accepted depends on the parameters only a little.

    Marsaglia and Tsang's sampler of Gamma(a, 1): `z = (a - 1/3) (1 + eps / sqrt(9 a - 3))^3`. With accepted noise
    `eps = h^-1(z; a)`, whose law is `pi(eps; a) = q(z; a) |dz/deps|`:

        terms_i = attach(f(z(eps_i; a)), log pi(eps_i; a))

    which needs no rejected draw: an accepted eps is the inverse of a sample. Shape augmentation draws z from
    Gamma(a + B) and multiplies by `u_1^(1/a) ... u_B^(1/(a+B-1))`: the larger the shape, the less `pi` depends on it.
    Beta and Dirichlet are ratios of Gammas.

    Needs an `f` that is continuous, and differentiable almost everywhere. Unbiased then; derivatives of higher order too,
    where `f` has them. At concentrations under about 0.03 both parts of a Beta may round to 0, and give nan: use
    `generalized` there.

    Args:
        augmentation: B >= 0. The sampler is one for shapes of 1 or more: where a concentration may be under 1, B >= 1.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` is no Gamma, Beta or Dirichlet.
        ValueError: `augmentation < 0`.

    Source: Naesseth, Ruiz, Linderman and Blei 2017, Reparameterization gradients through acceptance-rejection sampling
    algorithms (eqs. 7 to 9; augmentation: section 5).
    """
    if augmentation < 0 or augmentation != int(augmentation):
        raise ValueError(f"rejection: augmentation = {augmentation}; it is how often the shape is raised: 0, 1, 2, ...")
    base, keyed = (q.base, True) if isinstance(q, WithKey) else (q, False)
    key, for_u = jax.random.split(key)
    shape, rate, finish = as_gammas(base)
    source = dist.Gamma(shape + augmentation, rate).to_event(jnp.ndim(shape))
    minus_log_u = jax.random.exponential(for_u, (int(augmentation), n, *jnp.shape(shape)), shape.dtype)
    log_u = sum((-minus_log_u[i] / (shape + i) for i in range(int(augmentation))), start=jnp.zeros(()))
    centre, width = shape + augmentation - 1 / 3, 1 / jnp.sqrt(9 * (shape + augmentation) - 3)
    how = Standardised(
        source,
        forward=lambda e: centre * (1 + e * width) ** 3 / rate,
        inverse=lambda z: (jnp.cbrt(z * rate / centre) - 1) / width,
        finish=lambda z: finish(z * jnp.exp(log_u)),
    )
    return through_noise(f, how, key, n, "rejection", keyed)


@singledispatch
def as_gammas(q: Any) -> Any:
    """The shapes and rates of independent Gammas, and what makes a sample of `q` of theirs."""
    from rgrad.estimators.which import those_for

    raise NotImplementedError(
        f"rejection has no sampler for {name_of(q)} (there are: Gamma, Beta, Dirichlet); use {those_for(q)}"
    )


@as_gammas.register
def _(q: dist.Gamma) -> Any:
    return jnp.asarray(q.concentration) * 1.0, q.rate, lambda z: z  # a float, also where it was given as 2


@as_gammas.register
def _(q: dist.Beta) -> Any:
    shapes = jnp.stack([jnp.asarray(q.concentration1), jnp.asarray(q.concentration0)])
    return shapes, jnp.ones_like(shapes), lambda z: z[..., 0] / z.sum(-1)


@as_gammas.register
def _(q: dist.Dirichlet) -> Any:
    return q.concentration, jnp.ones_like(q.concentration), to_simplex
