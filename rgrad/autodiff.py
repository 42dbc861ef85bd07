"""The two tricks of differentiation. Everything else in rgrad is plain `jax.grad`.

Both leave a value as it is and change only what its derivative says:

- `attach` is right to every order (score function, generalised reparameterization);
- `attach_gradient` carries a gradient worked out by hand (measure-valued, rejection, ...). It is right to first
  order only, and *raises* where a second order, or a parameter without a rule, is asked for.

They are built on JAX primitives, because a `custom_jvp` rule is dropped by jax 0.10 when reverse mode passes through
`scan` or `map`.
"""

from collections.abc import Mapping, Sequence

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
    return jnp.asarray(values) * _ratio.bind(log_density)


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
        NotImplementedError: at trace time, when a parameter without a rule is differentiated, or when any derivative of
            the result is differentiated with respect to a parameter.
        ValueError: a gradient of the wrong shape, or for a parameter that is not there.
    """
    terms = jnp.asarray(values)
    for name in gradients:
        if name not in parameters:
            raise ValueError(
                f"{caller}: a gradient for {name!r}, but the parameters are {', '.join(parameters)}; name one of them"
            )
    spread, by_hand = [], []
    for name, gradient in gradients.items():
        parameter, gradient = jnp.asarray(parameters[name]), jnp.asarray(gradient, terms.dtype)
        if gradient.shape != terms.shape + parameter.shape:
            raise ValueError(
                f"{caller}: the gradient for {name!r} has shape {gradient.shape}; it must be the shape of the values "
                f"and of the parameter, {terms.shape + parameter.shape}"
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
    """`values`, whose derivative gains `sum_j gradients[j] * d parameters[j]`; differentiating that again raises.

    Each gradient and its parameter have the shape of `values`, or further axes, which are summed over. What raises is a
    derivative with respect to any of the parameters, of any of the first derivatives, that of `values` included: the
    samples are constants here, so that how *they* move with the parameters is known to first order only.
    """
    message = (
        f"{caller}: its gradient is right to first order only, and a derivative of the gradient was asked for "
        "(jax.hessian, or grad of grad); use score_function, whose derivatives are right to every order"
    )
    return _attached.bind(*same_varying(values, *gradients, *parameters), message=message)


def forbid(values: Array, forbidden: ArrayLike, message: str) -> Array:
    """`values` as they are; differentiating with respect to `forbidden` raises `NotImplementedError(message)`."""
    return _sealed.bind(*same_varying(values, forbidden), message=message)


def refuse_where(values: Array, bad: Array, parameter: Array, message: str) -> Array:
    """`values` as they are, whose derivative in the entries of `parameter` that are `bad` is nan.

    Raises `ValueError(message)`, when differentiated, if an entry is bad and that is known (outside of jit); never with an
    empty message.
    """
    spread = lambda x: jnp.broadcast_to(x, values.shape)
    entries = jnp.where(bad, parameter, 0.0).sum().astype(values.dtype)
    return _refused.bind(values, spread(bad.any()), spread(entries), message=message)


# log_density -> 1, as `exp(l - stop_gradient(l))` is, whose derivative it has; nobody need compute the density for that.
_ratio = Primitive("rgrad_ratio")


def _ratio_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    ratio = _ratio.bind(*primals)
    return ratio, ratio * tangents[0]  # so that every derivative has the next one


def _ratio_jet(primals_in, series_in, **params):  # type: ignore[no-untyped-def]
    return jet.jet_rules[lax.exp_p]([jnp.zeros_like(*primals_in)], series_in)  # Taylor's series of exp(l - l)


_ratio.def_impl(jnp.ones_like)
_ratio.def_abstract_eval(lambda log_density: log_density.update(weak_type=False))
ad.primitive_jvps[_ratio] = _ratio_jvp
batching.primitive_batchers[_ratio] = lambda args, axes: (_ratio.bind(*args), axes[0])
mlir.register_lowering(_ratio, mlir.lower_fun(jnp.ones_like, multiple_results=False))
jet.jet_rules[_ratio] = _ratio_jet

# The other two are the identity of their first operand; the further ones are there for the rules of differentiation.
_attached = Primitive("rgrad_attached")  # (values, gradients ..., parameters ...) -> values
_sealed = Primitive("rgrad_sealed")  # (values, witnesses ...) -> values; raises where a witness is differentiated
_refused = Primitive("rgrad_refused")  # (values, bad, entries) -> values; nan where bad entries are differentiated


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


def _sealed_jvp(primals, tangents, *, message):  # type: ignore[no-untyped-def]
    if any(type(tangent) is not ad.Zero for tangent in tangents[1:]):
        raise NoRule(*message.split("; ", 1))  # cause and advice
    tangent = tangents[0]  # linear, so its tangent is sealed in the same way
    if type(tangent) is not ad.Zero:
        tangent = _sealed.bind(tangent, *primals[1:], message=message)
    return _sealed.bind(*primals, message=message), tangent


def _sealed_transpose(cotangent, values, *witnesses, message):  # type: ignore[no-untyped-def]
    if type(cotangent) is not ad.Zero:
        cotangent = _sealed.bind(cotangent, *witnesses, message=message)
    return [cotangent, *(None for _ in witnesses)]


def _register(primitive, jvp):  # type: ignore[no-untyped-def]
    """Give `primitive` all that a transformation may ask for."""
    identity = lambda first, *others, **params: first
    primitive.def_impl(identity)
    primitive.def_abstract_eval(lambda first, *others, **params: first.update(weak_type=False))
    ad.primitive_jvps[primitive] = jvp
    mlir.register_lowering(primitive, mlir.lower_fun(identity, multiple_results=False))

    def batch(args, axes, **params):  # type: ignore[no-untyped-def]
        """Every operand gets the batch axis, in front."""
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
ad.primitive_transposes[_sealed] = _sealed_transpose
