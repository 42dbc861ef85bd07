"""`detach`: a distribution with constant parameters."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from rgrad.errors import NoDerivative


def detach(q: Any) -> Any:
    """`q` with a stop-gradient on every parameter: the same samples and densities, without derivatives.

    Sticking the landing (Roeder, Wu and Duvenaud 2017, https://arxiv.org/abs/1703.09194) applies the reparameterization
    trick to an ELBO with a detached entropy term:

        rgrad.expect(lambda x: log_p(x) - rgrad.log_prob(rgrad.detach(q), x), q, key, n)

    If q = p, its gradient is exactly zero for every sample, not only on average. Far from q = p it may be noisier,
    because the score that it drops may have cancelled other noise. For q = N(0, s^2) and p = N(0, 1), the variance of
    the gradient in s is `2 (s - 1/s)^2` per sample, and `2 s^2` with the score. So it is noisier for s^2 < 1/2.

    Args:
        q: a NumPyro distribution, or any pytree with the members of `rgrad.Distribution`.

    Raises:
        TypeError: `q` is not a pytree, so its parameters cannot be found.
    """
    if any(leaf is q for leaf in jax.tree.leaves(q)):
        raise NoDerivative(
            f"detach: q must be a pytree, got {type(q).__name__}, whose parameters cannot be found",
            "register its class with jax.tree_util.register_pytree_node_class, or stop the gradients of its parameters "
            "when you build it",
        )
    return jax.tree.map(lax.stop_gradient, q)
