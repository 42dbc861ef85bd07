"""Reparameterization through rejection sampling: Gamma, InverseGamma, Beta and Dirichlet by the Gamma sampler's own noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.distributions.gammas import as_gammas
from rgrad.distributions.keyed import base_of
from rgrad.distributions.standardised import Standardised
from rgrad.estimators.generalized import through_noise
from rgrad.protocols import Objective


def rejection(f: Objective, q: Any, key: Array, n: int, *, augmentation: int = 1) -> Array:
    """The proposal of a rejection sampler is a map of noise; what is accepted depends on the parameters only a little.

    Marsaglia and Tsang's sampler of Gamma(a, 1): `z = (a - 1/3) (1 + eps / sqrt(9 a - 3))^3`. With accepted noise
    `eps = h^-1(z; a)`, whose law is `pi(eps; a) = q(z; a) |dz/deps|`:

        terms_i = attach(f(z(eps_i; a)) - c, log pi(eps_i; a)) + c,    c = f(z(0; a)), a constant

    which needs no rejected draw: an accepted eps is the inverse of a sample. Shape augmentation draws z from
    Gamma(a + B) and multiplies by `u_1^(1/a) ... u_B^(1/(a+B-1))`: the larger the shape, the less `pi` depends on it.
    InverseGamma is the reciprocal of a Gamma, Beta and Dirichlet are ratios of Gammas. Vectors of them by `to_event`.

    Needs an `f` that is continuous, and differentiable almost everywhere. Unbiased then; derivatives of higher order too,
    where `f` has them.

    Args:
        augmentation: B >= 0. The sampler is one for shapes of 1 or more: where a concentration is under 1, B >= 1, or
            all is nan.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` is not a Gamma, InverseGamma, Beta or Dirichlet, or a vector of them.
        ValueError: `augmentation` is no whole number >= 0.

    Source: Naesseth, Ruiz, Linderman and Blei 2017, Reparameterization gradients through acceptance-rejection sampling
    algorithms (eqs. 7 to 9; augmentation: section 5).
    """
    if not isinstance(augmentation, int | float) or augmentation < 0 or augmentation % 1 != 0:
        raise ValueError(f"rejection: augmentation = {augmentation}; it is how often the shape is raised: 0, 1, 2, ...")
    key, for_u = jax.random.split(key)
    shape, rate, finish = as_gammas(base_of(q))
    source = dist.Gamma(shape + augmentation, rate).to_event(jnp.ndim(shape))
    minus_log_u = jax.random.exponential(for_u, (int(augmentation), n, *jnp.shape(shape)), shape.dtype)
    minus_log_u = jnp.pad(
        minus_log_u, [(0, 0), (0, 1)] + [(0, 0)] * shape.ndim, constant_values=1.0
    )  # its mean, at eps = 0
    log_u = sum((-minus_log_u[i] / (shape + i) for i in range(int(augmentation))), start=jnp.zeros(()))
    raised = shape + augmentation
    raised = jnp.where(raised >= 1, raised, jnp.nan)  # there the sampler is none
    centre, width = raised - 1 / 3, 1 / jnp.sqrt(9 * raised - 3)
    how = Standardised(
        source,
        forward=lambda e: centre * (1 + e * width) ** 3 / rate,
        inverse=lambda z: (jnp.cbrt(z * rate / centre) - 1) / width,
        finish=lambda z: finish(jnp.log(z) + log_u),  # the product itself may round to 0
    )
    return through_noise(f, how, key, n, "rejection", base_of(q) is not q)
