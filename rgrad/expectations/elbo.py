"""The evidence lower bound, by sampling or with the exact entropy, and by any estimator."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import LowerCholeskyAffine

from rgrad.autodiff import first_order
from rgrad.distributions.detach import detach
from rgrad.distributions.draws import check_draw
from rgrad.distributions.entropy import entropy as exact_entropy
from rgrad.distributions.location_scale import check_cholesky
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.wrappers import unwrapped
from rgrad.estimators.reparameterized import reparameterized
from rgrad.expectations.expectation import expect
from rgrad.protocols import Estimator, Objective

Entropy = Literal["sampled", "exact", "detached"]


def elbo(
    log_g: Objective,
    q: Any,
    key: Array,
    n: int = 1,
    estimator: Estimator = reparameterized,
    entropy: Entropy = "sampled",
) -> Array:
    """The ELBO, a lower bound on `log integral g(z) dz` with equality where q is g normalised:

        E_q[log g(z) - log q(z)]                                  entropy="sampled"
        E_q[log g(z)] + H[q]                                      entropy="exact"

    To be maximised: its negative is the loss.

        def loss(params, key):
            q = dist.MultivariateNormal(params["mu"], scale_tril=factor(params))
            return -rgrad.elbo(log_g, q, key, n=10, entropy="exact")

    For a location-scale family, z = mu + C eps and eps ~ phi, the second line by the reparameterization trick is
    `E_phi[log g(mu + C eps)] + log |det C| + H[phi]`, with the gradients `E_phi[s]` for mu and `E_phi[s eps'] + C^-T` for C,
    where s is the derivative of log g at z. There the first line has the very same gradient, sample by sample, because
    `log q(z) = log phi(eps) - log |det C|`: the exact entropy takes noise from the value alone. By other estimators, and for
    other families (Gamma, by implicit differentiation), the gradients differ too.

    `entropy="detached"` is the sampled one with the parameters of `log q` held constant. What that leaves out of the
    gradient, `-d log q(z)`, has the mean 0, so that nothing is biased. By the reparameterization trick it is sticking the
    landing, exactly 0 where q is g normalised; by the score function it is the textbook's REINFORCE for the ELBO,
    `(log g - log q) d log q`. To first order: a second derivative raises.

    Args:
        log_g: one sample to its log density, which need not be normalised: a scalar. It may use the parameters that are
            differentiated, as a model's.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated:
            `rgrad.location_scale(mu, C, phi)`, or any other.
        key: one PRNG key.
        n: samples, a Python int.
        estimator: any estimator that takes `q`.
        entropy: one of the three.

    Returns:
        A scalar, the mean over n samples: per call. nan where log_g is: there `rgrad.fit` takes no step, and
        says at which it stopped.

    Raises:
        ValueError: an unknown `entropy`, a Cholesky factor with a diagonal that is not positive (where it is not traced),
            or as `rgrad.expect`.
        TypeError: as `rgrad.expect`; or `estimator` is no function.
        NotImplementedError: "exact", and no formula is known for the entropy of `q`; "detached", and a second derivative.

    Source: the notes' equations (6a), (6h) and (7c); Kingma and Welling 2014; "detached": Roeder, Wu and Duvenaud 2017.
    """
    if entropy not in get_args(Entropy):
        raise ValueError(f"elbo: entropy = {entropy!r}; it is one of {', '.join(map(repr, get_args(Entropy)))}")
    if not callable(estimator):
        raise TypeError(f"elbo: estimator = {estimator!r} is no function; give one as rgrad.reparameterized")
    check_draw(q, n, "elbo")
    _check_factor(q)
    if entropy == "exact":
        return expect(log_g, q, key, n, estimator) + exact_entropy(q)
    if entropy == "sampled":
        return expect(lambda z: jnp.asarray(log_g(z)) - log_prob(q, z), q, key, n, estimator)
    constant = detach(q)
    value = expect(lambda z: jnp.asarray(log_g(z)) - log_prob(constant, z), q, key, n, estimator)
    # The second derivative of what is left out has a mean that is not 0.
    leaves = [x for x in jax.tree.leaves(q) if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.floating)]
    return first_order(value, leaves, [jnp.zeros_like(x) for x in leaves], 'elbo(entropy="detached")')


def _check_factor(q: Any) -> None:
    q = unwrapped(q)
    if isinstance(q, dist.MultivariateNormal):
        check_cholesky(q.scale_tril, "elbo: MultivariateNormal")
    for transform in getattr(q, "transforms", ()):
        if isinstance(transform, LowerCholeskyAffine):
            check_cholesky(transform.scale_tril, "elbo: LowerCholeskyAffine")
