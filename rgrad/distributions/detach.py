"""`detach`: a distribution with constant parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import jaxpr_as_fun

from rgrad.distributions.adapted import Adapted, TwoFunctions
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
        q: a distribution that is a pytree: one of NumPyro, TFP, distrax, distreqx (Equinox) or FlowJAX, or your own. Leaves
            that are not arrays of floats are kept. Or what `rgrad.distribution` returns: the arrays in the closures of
            its functions are then held constant.

    Returns:
        An object of the same type.

    Raises:
        TypeError: `q` is not a pytree, so its parameters cannot be found.

    Example:
        >>> log_q = lambda loc: rgrad.log_prob(rgrad.detach(dist.Normal(loc, 1.0)), 3.0)
        >>> print(jax.grad(log_q)(1.0))  # without detach it is 2
        0.0
    """
    if isinstance(q, Adapted) and isinstance(q.origin, TwoFunctions):
        return replace(q, origin=TwoFunctions(*map(_held, q.origin)))
    hidden = [
        leaf for leaf in jax.tree.leaves(q) if leaf is q or (hasattr(leaf, "log_prob") and hasattr(leaf, "sample"))
    ]
    if hidden:
        raise NoDerivative(
            f"detach: q must be a pytree, got {type(hidden[0]).__name__}, whose parameters cannot be found",
            "register its class with jax.tree_util.register_pytree_node_class, or stop the gradients of its parameters "
            "when you build it",
        )
    return jax.tree.map(_constant, q)


def parameters_of(q: Any) -> list[Array]:
    """The arrays of floats on which `q` depends: its leaves, and what its functions close over."""
    leaves = jax.tree.leaves(q)
    if isinstance(q, Adapted) and isinstance(q.origin, TwoFunctions):
        one = jax.eval_shape(lambda: q.sample(jax.random.key(0), ()))
        leaves = jax.make_jaxpr(lambda x: q.origin.log_prob(x))(one).consts
    return [x for x in leaves if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.floating)]


def _constant(leaf: Any) -> Any:
    # TFP holds some arrays in objects that compute them, which have a dtype but are not arrays.
    return lax.stop_gradient(leaf) if isinstance(leaf, Array | float | complex) else leaf


def _held(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a stop-gradient on every array that it closes over."""

    def held(x: Any, *static: Any) -> Any:
        closed, out = jax.make_jaxpr(lambda x: function(x, *static), return_shape=True)(x)
        closed = closed.replace(consts=[_constant(c) for c in closed.consts])
        return jax.tree.unflatten(jax.tree.structure(out), jaxpr_as_fun(closed)(*jax.tree.leaves(x)))

    return held
