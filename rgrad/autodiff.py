"""Ways to change a derivative without changing a value. Everything else in rgrad is plain `jax.grad`.

- `attach` is correct to every order. The score function and generalised reparameterization use it.
- `attach_gradient` carries a gradient that was worked out by hand (measure-valued, rejection, ...). It is correct to
  first order only. It *raises* if a second derivative is taken, or if a parameter without a rule is differentiated.
- `moving` is for samples whose derivative is a known function of them. It is correct to every order.

All are JAX primitives, because jax 0.10 drops a `custom_jvp` rule when reverse mode passes through `scan` or `map`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from rgrad.backend.varying import same_varying
from rgrad.errors import NoRule, Unsuitable


def attach(values: ArrayLike, log_density: ArrayLike) -> Array:
    """`values`, with `values * d log_density` added to their derivative: the score function, to every order.

        attach(v, l) = v * exp(l - stop_gradient(l))

    The derivatives of the ratio `exp(l - stop_gradient(l))` are `dq/q`, `d2q/q`, ... The derivatives of the mean over
    samples of `q` are therefore unbiased estimates of the derivatives of `E_q[v]`.

    If an entry of `log_density` is not finite, the value is unchanged and nothing is attached.

    Args:
        values: one value per sample, of any shape. The derivative that they already have is kept.
        log_density: broadcastable against `values`. The density must be normalised, or the derivative is biased.

    Example:
        >>> log_q = lambda theta: dist.Normal(theta, 1.0).log_prob(3.0)
        >>> print(jax.grad(lambda theta: rgrad.attach(5.0, log_q(theta)))(2.0))  # 5 (3 - theta)
        5.0

    Source: Foerster et al. 2018, DiCE (eq. 6), https://arxiv.org/abs/1802.05098. Here one log density takes the place
    of their sum over a graph.
    """
    log_density = jnp.asarray(log_density)
    # Both branches must be finite: `-inf - -inf` is nan, and a nan in the branch not taken still reaches the gradient.
    log_density = jnp.where(jnp.isfinite(log_density), log_density, 0.0)
    return jnp.asarray(values) * _ratio.bind(log_density)


def attach_gradient(
    values: ArrayLike, parameters: Mapping[str, ArrayLike], gradients: Mapping[str, ArrayLike], caller: str
) -> Array:
    """`values`, with `sum_j gradients[j] * d parameters[j]` added to their derivative, to first order only.

    Args:
        values: shape `(n,)`, one per sample. The derivative that they already have is kept.
        parameters: every parameter of the distribution by name, e.g. `{"loc": q.loc, "scale": q.scale}`, of any shapes
            `P_j`. Names are used, because the leaves of a pytree may repeat a parameter: a LogNormal has four leaves.
        gradients: the hand-written gradient of each value, shape `(n, *P_j)`. A parameter whose name is missing has no
            rule, and differentiating it raises.
        caller: the name of the calling function, for error messages.

    Raises:
        NotImplementedError: at trace time, if a parameter without a rule is differentiated, or if a derivative of the
            result is differentiated again with respect to a parameter.
        ValueError: a gradient has the wrong shape, or its name is not the name of a parameter.

    Example:
        >>> values, gradients = jnp.array([1.0, 2.0]), jnp.array([5.0, 7.0])
        >>> terms = lambda theta: rgrad.attach_gradient(values, {"theta": theta}, {"theta": gradients}, "mine")
        >>> print(jax.grad(lambda theta: terms(theta).mean())(0.0))
        6.0
    """
    terms = jnp.asarray(values)
    for name in gradients:
        if name not in parameters:
            raise ValueError(
                f"{caller}: gradients has the key {name!r}, but the parameters are {', '.join(parameters)}; "
                "use one of these names"
            )
    spread, by_hand = [], []
    for name, gradient in gradients.items():
        parameter, gradient = jnp.asarray(parameters[name]), jnp.asarray(gradient, terms.dtype)
        if gradient.shape != terms.shape + parameter.shape:
            raise ValueError(
                f"{caller}: the gradient for {name!r} has shape {gradient.shape}; it must have the shape of the values "
                f"followed by that of the parameter, {terms.shape + parameter.shape}"
            )
        spread.append(jnp.broadcast_to(parameter, gradient.shape).astype(gradient.dtype))
        by_hand.append(gradient)
    if by_hand:
        terms = first_order(terms, spread, by_hand, caller)
    for name in parameters:
        if name not in gradients:
            message = (
                f"{caller} has no rule for the parameter {name!r}, which is being differentiated (rules: "
                f"{', '.join(gradients) or 'none'}); stop its gradient, or use score_function"
            )
            terms = forbid(terms, parameters[name], message)
    return terms


def first_order(values: Array, parameters: Sequence[Array], gradients: Sequence[Array], caller: str) -> Array:
    """`values`, with `sum_j gradients[j] * d parameters[j]` added to their derivative, to first order only.

    Each gradient and its parameter have the same shape: that of `values`, possibly followed by further axes, which are
    summed over.

    Differentiating a first derivative again, with respect to any of the parameters, raises. This includes the
    derivative that `values` already have. The gradients were computed at constant samples, so the dependence of the
    samples on the parameters is known to first order only.
    """
    message = (
        f"{caller}: its gradient is right to first order only, and a derivative of the gradient was asked for "
        "(jax.hessian, or grad of grad); use score_function, whose derivatives are right to every order"
    )
    return _attached.bind(*same_varying(values, *gradients, *parameters), message=message)


def moving(x: Array, parameters: Sequence[Array], velocity: Callable[[Array, Sequence[Array], Sequence[Array]], Array]) -> Array:  # fmt: skip
    """The constant `x`, with the derivative `velocity(x, parameters, their derivatives)`, to every order.

    In the velocity, x moves too. This gives the next derivative. The velocity is linear in the derivatives of the
    parameters, and is a function without a closure. A leading axis of all its arguments is one of its result.
    """
    return _moving.bind(*same_varying(x, *parameters), velocity=velocity)


def forbid(values: Array, forbidden: ArrayLike, message: str) -> Array:
    """`values`. Differentiating them with respect to `forbidden` raises `NotImplementedError(message)`."""
    return _sealed.bind(*same_varying(values, forbidden), message=message)


def refuse_where(values: Array, bad: Array, parameter: Array, message: str) -> Array:
    """`values`. Their derivative with respect to the `bad` entries of `parameter` is nan.

    If `bad` is not traced and an entry is bad, differentiation raises `ValueError(message)` instead, unless the message
    is empty.
    """
    spread = lambda x: jnp.broadcast_to(x, values.shape)
    entries = jnp.where(bad, parameter, 0.0).sum().astype(values.dtype)
    return _refused.bind(values, spread(bad.any()), spread(entries), message=message)


# log_density -> 1: the value and derivatives of `exp(l - stop_gradient(l))`. The density itself is never evaluated.
_ratio = Primitive("rgrad_ratio")


def _ratio_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    ratio = _ratio.bind(*primals)
    return ratio, ratio * tangents[0]  # the tangent contains the ratio, which gives the next derivative


def _ratio_jet(primals_in, series_in, **params):  # type: ignore[no-untyped-def]
    return jet.jet_rules[lax.exp_p]([jnp.zeros_like(*primals_in)], series_in)  # the Taylor series of exp(l - l)


_ratio.def_impl(jnp.ones_like)
_ratio.def_abstract_eval(lambda log_density: log_density.update(weak_type=False))
ad.primitive_jvps[_ratio] = _ratio_jvp
batching.primitive_batchers[_ratio] = lambda args, axes: (_ratio.bind(*args), axes[0])
mlir.register_lowering(_ratio, mlir.lower_fun(jnp.ones_like, multiple_results=False))
jet.jet_rules[_ratio] = _ratio_jet

# The other primitives return their first operand. Only their derivative rules use the other operands.
_attached = Primitive("rgrad_attached")  # (values, gradients ..., parameters ...) -> values
_sealed = Primitive("rgrad_sealed")  # (values, witnesses ...) -> values; raises if a witness is differentiated
_moving = Primitive("rgrad_moving")  # (x, parameters ...) -> x; its derivative is a function of all operands
_refused = Primitive("rgrad_refused")  # (values, bad, entries) -> values; nan if bad entries are differentiated


def _refused_jvp(primals, tangents, *, message):  # type: ignore[no-untyped-def]
    bad = primals[1]
    total, _, tangent = tangents
    known = not isinstance(bad, jax.core.Tracer)
    if type(tangent) is not ad.Zero and not (known and not bad.any()):
        if known and message:
            raise Unsuitable(message)
        part = jnp.where(bad, jnp.nan, 0.0) * tangent
        total = part if type(total) is ad.Zero else total + part
    elif type(total) is ad.Zero:
        total = ad.Zero(jax.typeof(primals[0]).to_tangent_aval())
    return _refused.bind(*primals, message=message), total


def _attached_jvp(primals, tangents, *, message):  # type: ignore[no-untyped-def]
    values, *rest = primals
    gradients, parameters = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    seal = lambda x: _sealed.bind(x, *parameters, message=message)
    total = ad.Zero(jax.typeof(values).to_tangent_aval())
    if type(tangents[0]) is not ad.Zero:
        total = seal(tangents[0])
    for gradient, tangent in zip(gradients, tangents[1 + len(gradients) :], strict=True):
        if type(tangent) is not ad.Zero:
            trailing = tuple(range(values.ndim, gradient.ndim))
            part = (seal(gradient) * tangent).sum(trailing)
            total = part if type(total) is ad.Zero else total + part
    return _attached.bind(*primals, message=message), total


def _moving_jvp(primals, tangents, *, velocity):  # type: ignore[no-untyped-def]
    x, total = _moving.bind(*primals, velocity=velocity), tangents[0]
    if any(type(tangent) is not ad.Zero for tangent in tangents[1:]):
        part = velocity(x, primals[1:], [ad.instantiate_zeros(tangent) for tangent in tangents[1:]])
        total = part if type(total) is ad.Zero else total + part
    return x, total


def _sealed_jvp(primals, tangents, *, message):  # type: ignore[no-untyped-def]
    if any(type(tangent) is not ad.Zero for tangent in tangents[1:]):
        raise NoRule(*message.split("; ", 1))  # cause and advice
    tangent = tangents[0]  # the operation is linear, so its tangent is sealed in the same way
    if type(tangent) is not ad.Zero:
        tangent = _sealed.bind(tangent, *primals[1:], message=message)
    return _sealed.bind(*primals, message=message), tangent


def _sealed_transpose(cotangent, values, *witnesses, message):  # type: ignore[no-untyped-def]
    if type(cotangent) is not ad.Zero:
        cotangent = _sealed.bind(cotangent, *witnesses, message=message)
    return [cotangent, *(None for _ in witnesses)]


def _register(primitive, jvp):  # type: ignore[no-untyped-def]
    """Registers every rule of `primitive` that a JAX transformation may need."""
    identity = lambda first, *others, **params: first
    primitive.def_impl(identity)
    primitive.def_abstract_eval(lambda first, *others, **params: first.update(weak_type=False))
    ad.primitive_jvps[primitive] = jvp
    mlir.register_lowering(primitive, mlir.lower_fun(identity, multiple_results=False))

    def batch(args, axes, **params):  # type: ignore[no-untyped-def]
        """Moves the batch axis of every operand to the front."""
        size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
        front = (
            jnp.broadcast_to(x, (size, *jnp.shape(x))) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(args, axes, strict=True)
        )  # fmt: skip
        return primitive.bind(*front, **params), 0

    batching.primitive_batchers[primitive] = batch


_register(_attached, _attached_jvp)
_register(_sealed, _sealed_jvp)
_register(_refused, _refused_jvp)
_register(_moving, _moving_jvp)
ad.primitive_transposes[_sealed] = _sealed_transpose
