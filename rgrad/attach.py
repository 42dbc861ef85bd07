"""The two tricks of differentiation. Everything else in rgrad is plain `jax.grad`.

Both leave a value as it is and change only what its derivative says:

- `attach` is right to every order (score function, generalised reparameterization);
- `attach_gradient` carries a gradient worked out by hand (measure-valued, rejection, ...). It is right to first
  order only, and *raises* where a second order, or a parameter without a rule, is asked for.

`attach` is plain arithmetic, and `attach_gradient` is built on JAX primitives, because a `custom_jvp` rule is
dropped by jax 0.10 when reverse mode passes through `scan` or `map`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike


def attach(values: ArrayLike, log_density: ArrayLike) -> Array:
    """`values`, whose derivative gains `values * d log_density`: the score function, right to every order.

        attach(v, l) = v * exp(l - stop_gradient(l))

    The derivatives of the ratio `exp(l - stop_gradient(l))` are `dq/q`, `d2q/q`, ..., so that means over samples of
    `q` are unbiased derivatives of `E_q[v]` of the same order.

    Where `log_density` is not finite the value is unchanged and nothing is attached.

    Args:
        values: any shape, per sample; its own derivative is kept.
        log_density: broadcastable against `values`; normalised, or the derivative is that of another density.

    Source: Foerster et al. 2018, DiCE (eq. 6), with the log density in place of the sum over a graph.
    """
    log_density = jnp.asarray(log_density)
    # Both branches must be finite: `-inf - -inf` is nan, and a nan in the branch not taken still reaches the gradient.
    log_density = jnp.where(jnp.isfinite(log_density), log_density, 0.0)
    return jnp.asarray(values) * jnp.exp(log_density - lax.stop_gradient(log_density))


def attach_gradient(
    values: ArrayLike, parameters: Mapping[str, ArrayLike], gradients: Mapping[str, ArrayLike], caller: str
) -> Array:
    """`values`, whose derivative gains `sum_j gradients[j] * d parameters[j]`, to first order only.

    Args:
        values: shape `(n,)`, per sample; its own derivative is kept.
        parameters: every parameter of the distribution by name (`{"loc": q.loc, "scale": q.scale}`): by name, and not
            the leaves of the pytree, because a LogNormal has four of those. Any shapes `P_j`.
        gradients: the gradient by hand of each value, shape `(n, *P_j)`, per sample. A name that is absent has no
            rule: differentiating that parameter raises.
        caller: who asks, for the error messages.

    Raises:
        NotImplementedError: at trace time, when a parameter without a rule is differentiated, or when the result is
            differentiated twice (the derivative of a gradient worked out by hand is not known).
        ValueError: a gradient of the wrong shape, or for a parameter that is not there.
    """
    terms = jnp.asarray(values)
    for name in gradients:
        if name not in parameters:
            raise ValueError(
                f"{caller}: a gradient for {name!r}, but the parameters are {', '.join(parameters)}; name one of them"
            )
    for name, parameter in parameters.items():
        parameter = jnp.asarray(parameter)
        if name not in gradients:
            message = (
                f"{caller} has no rule for the parameter {name!r}, which is being differentiated (rules: "
                f"{', '.join(gradients) or 'none'}); stop its gradient, or use score_function"
            )
            terms = forbid(terms, parameter, message)
            continue
        gradient = jnp.asarray(gradients[name], terms.dtype)
        if gradient.shape != terms.shape + parameter.shape:
            raise ValueError(
                f"{caller}: the gradient for {name!r} has shape {gradient.shape}; it must be the shape of the values "
                f"and of the parameter, {terms.shape + parameter.shape}"
            )
        terms = terms + _first_order_sum(gradient, parameter, caller)
    return terms


def first_order(x: Array, gradient: Array, caller: str) -> Array:
    """Zeros of `x`'s shape with derivative `gradient * dx`, elementwise; differentiating twice raises."""
    return _attached.bind(x, jnp.broadcast_to(jnp.asarray(gradient, x.dtype), x.shape), caller=caller)


def forbid(values: Array, forbidden: Array, message: str) -> Array:
    """`values` as they are; differentiating with respect to `forbidden` raises `NotImplementedError(message)`."""
    return _forbidden.bind(values, jnp.asarray(forbidden), message=message)


def _first_order_sum(gradient: Array, parameter: Array, caller: str) -> Array:
    spread = jnp.broadcast_to(parameter, gradient.shape).astype(gradient.dtype)
    attached = first_order(spread, gradient, caller)
    return attached.sum(tuple(range(gradient.ndim - parameter.ndim, gradient.ndim)))


# The three primitives. Each is the identity of one operand, or zeros; only the rules for derivatives differ.
_attached = Primitive("rgrad_attached")  # (x, gradient) -> 0, derivative gradient * dx
_opaque = Primitive("rgrad_opaque")  # (gradient, x) -> gradient, no derivative
_forbidden = Primitive("rgrad_forbidden")  # (values, forbidden) -> values, derivative in the first alone


def _attached_jvp(primals, tangents, *, caller):  # type: ignore[no-untyped-def]
    x, gradient = primals
    dx, _ = tangents
    zeros = _attached.bind(x, gradient, caller=caller)
    if type(dx) is ad.Zero:
        return zeros, ad.Zero.from_primal_value(zeros)  # type: ignore[attr-defined]
    # `x` goes along so that a second differentiation meets _opaque even where the gradient itself is a constant.
    return zeros, _opaque.bind(gradient, x, caller=caller) * dx


def _opaque_jvp(primals, tangents, *, caller):  # type: ignore[no-untyped-def]
    raise NotImplementedError(
        f"{caller}: its gradient is right to first order only, and a derivative of the gradient was asked for "
        "(jax.hessian, or grad of grad); use score_function, whose derivatives are right to every order"
    )


def _forbidden_jvp(primals, tangents, *, message):  # type: ignore[no-untyped-def]
    if type(tangents[1]) is not ad.Zero:
        raise NotImplementedError(message)
    return _forbidden.bind(*primals, message=message), tangents[0]


def _register(primitive, function, jvp, elementwise):  # type: ignore[no-untyped-def]
    """Give `primitive` all that a transformation may ask for, `function` being what it computes.

    `elementwise`: under vmap both operands get the batch axis. Otherwise the second may have any shape and goes along
    as it is.
    """
    primitive.def_impl(lambda *args, **params: function(*args))
    primitive.def_abstract_eval(lambda first, second, **params: jax.core.ShapedArray(first.shape, first.dtype))
    ad.primitive_jvps[primitive] = jvp
    mlir.register_lowering(primitive, mlir.lower_fun(lambda *args, **params: function(*args), multiple_results=False))

    def batch(args, axes, **params):  # type: ignore[no-untyped-def]
        size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
        first, second = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(args, axes, strict=True))
        if axes[0] is None:
            first = jnp.broadcast_to(first, (size, *first.shape))
        if axes[1] is None and elementwise:
            second = jnp.broadcast_to(second, (size, *second.shape))
        return primitive.bind(first, second, **params), 0

    batching.primitive_batchers[primitive] = batch


_register(_attached, lambda x, gradient: jnp.zeros_like(x), _attached_jvp, elementwise=True)
_register(_opaque, lambda gradient, x: gradient, _opaque_jvp, elementwise=True)
_register(_forbidden, lambda values, forbidden: values, _forbidden_jvp, elementwise=False)
