"""`detach`: a distribution whose parameters are constants."""

from typing import Any

import jax
from jax import lax

from rgrad.errors import NoDerivative


def detach(q: Any) -> Any:
    """`q` with a stop-gradient on every parameter: the same samples and densities, without derivatives.

    Sticking the landing (Roeder, Wu and Duvenaud 2017) is an ELBO whose entropy term is detached,

        rgrad.expect(lambda x: log_p(x) - rgrad.log_prob(rgrad.detach(q), x), q, key, n)

    by the reparameterization trick: its gradient is exactly zero, not only in the mean, where q = p. It is no better
    everywhere: far from there the score that it leaves out may have been cancelling noise. For q = N(0, s^2) and
    p = N(0, 1) the gradient for s has, per sample, the variance `2 (s - 1/s)^2` against `2 s^2` with the score: worse for
    s^2 < 1/2.

    Args:
        q: a NumPyro distribution, or any pytree with the members of `rgrad.Distribution`.

    Raises:
        TypeError: `q` is no pytree, so that its parameters cannot be found.
    """
    if any(leaf is q for leaf in jax.tree.leaves(q)):
        raise NoDerivative(
            f"detach: a {type(q).__name__} is no pytree, so its parameters cannot be found",
            "register it with jax.tree_util.register_pytree_node_class, or stop the gradients of its parameters where it is built",
        )
    return jax.tree.map(lax.stop_gradient, q)
