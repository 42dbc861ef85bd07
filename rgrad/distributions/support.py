"""Whether the support of `q` depends on the parameters. If it does, the score function misses the moving edge.

The edges are found by following the support of the base distribution through the transforms, at the actual values.
Infinite ends are followed too: a sigmoid maps minus infinity to 0 and plus infinity to 1, and a scale after it then
maps 1 to a number that depends on the scale. NumPyro's own `support` cannot be used, because it says `real` for every
affine image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.extend.core import jaxpr_as_fun
from numpyro.distributions import constraints, transforms

from rgrad.autodiff import forbid
from rgrad.distributions.wrappers import name_of

WRAPPERS = (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)
INFINITE = (-np.inf, np.inf)


def forbid_moving_support(terms: Array, q: Any, caller: str) -> Array:
    """`terms`. Differentiating them in a parameter on which the support of `q` depends raises at trace time.

    For x ~ Uniform(0, theta), the derivative of `E[x]` is +1/2, but `E[x d log q]` is -1/2. The difference comes from
    the density at the edge (Leibniz's rule). Only the derivative raises, so Uniform(0, 1) with constant bounds is
    allowed.
    """
    message = (
        f"{caller}: the support of {name_of(q)} depends on a parameter that is being differentiated, and the score "
        "omits the moving edge (for Uniform(0, theta) it gives -0.5, not +0.5); use reparameterized, or hold the "
        "bounds constant. (If the support does not move, give your own transform a codomain that says so, and "
        "rgrad.distribution(sample, q.log_prob, ...) in place of another library's distribution)"
    )
    for edge in edges(q):
        terms = forbid(terms, edge, message)
    return terms


def edges(q: Any) -> list[Any]:
    """The numbers that bound the support of `q` and can be differentiated."""
    ends, held = _support(q)
    numbers = [*(() if isinstance(ends, constraints.Constraint) else ends), *held]
    return [x for x in numbers if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.inexact)]


# A support is a list of its ends (numbers and infinities), or a NumPyro constraint that has no ends, e.g. a simplex.
Ends = Any


def _support(q: Any) -> tuple[Ends, list[Any]]:
    """The support of `q`, and other numbers that bound it."""
    base, parts = getattr(q, "base_dist", None), getattr(q, "transforms", None)
    if base is not None and parts:
        ends, held = _support(base)
        for part in parts:
            ends, more = _image(ends, part)
            held = held + more
        return ends, held
    if base is not None and (isinstance(q, WRAPPERS) or not isinstance(q, dist.Distribution)):
        return _support(base)
    if isinstance(q, dist.Delta):
        return [q.v], []
    components = getattr(q, "component_distributions", None) or getattr(q, "component_distribution", None)
    ends, held = _of_constraint(getattr(q, "support", None))
    inner = [_support(part) for part in (components if isinstance(components, list | tuple) else [components or base])
             if part is not None]  # fmt: skip
    if components is not None and not any(isinstance(part, constraints.Constraint) for part, _ in inner):
        ends = []  # the components are more precise than their common support
    for part, more in inner:
        held = [*held, *more, *(() if isinstance(part, constraints.Constraint) else part)]
    return (
        ([*ends, *held], [])
        if components is not None and not isinstance(ends, constraints.Constraint)
        else (ends, held)
    )


def _of_constraint(support: Any) -> tuple[Ends, list[Any]]:
    """The ends of a NumPyro constraint, including constants; or the leaves of any other pytree."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    names = [name for name in ("lower_bound", "upper_bound") if hasattr(support, name)]
    if names:
        ends = [
            getattr(support, name, none) for name, none in zip(("lower_bound", "upper_bound"), INFINITE, strict=True)
        ]
        return ends, []
    if isinstance(support, type(constraints.real)):
        return list(INFINITE), []
    if isinstance(support, constraints.Constraint):
        return support, jax.tree.leaves(support)
    return list(INFINITE), jax.tree.leaves(support)


def _image(ends: Ends, transform: Any) -> tuple[Ends, list[Any]]:
    """The image of the ends under a transform, and other numbers that may move it."""
    if isinstance(transform, transforms.ComposeTransform):
        held: list[Any] = []
        for part in transform.parts:
            ends, more = _image(ends, part)
            held = held + more
        return ends, held
    if isinstance(transform, transforms.IndependentTransform):
        return _image(ends, transform.base_transform)
    if not isinstance(ends, constraints.Constraint):
        of_end = _elementwise(transform)
        if of_end is not None:
            return [image for end in ends for image in of_end(end)], []
    if _fills(ends, transform):
        return _of_constraint(transform.codomain)
    if isinstance(ends, constraints.Constraint):
        return ends, [x for x in jax.tree.leaves(transform) if not isinstance(x, str)]
    try:
        return [image for end in ends for image in _by_calling(transform, end)], []
    except (TypeError, ValueError, IndexError, NotImplementedError):  # a map of vectors: forbid all its parameters
        return ends, jax.tree.leaves(transform)


def _elementwise(transform: Any) -> Any:
    """The function from an end to its images, if this is an elementwise NumPyro transform; otherwise None."""
    if isinstance(inverse := transform, transforms._InverseTransform):
        inverse = transform._inv
        if type(inverse) is transforms.AffineTransform:
            transform = transforms.AffineTransform(-inverse.loc / inverse.scale, 1 / inverse.scale)
        elif type(inverse) is transforms.PowerTransform:
            transform = transforms.PowerTransform(1 / inverse.exponent)
    kind = type(transform)
    if kind is transforms.IdentityTransform:
        return lambda end: [end]
    if kind is transforms.AffineTransform:
        return lambda end: _affine(end, transform.loc, transform.scale)
    if kind is transforms.PowerTransform:
        return lambda end: _power(end, transform.exponent)
    if kind is transforms.AbsTransform:
        return lambda end: [0.0, np.inf if _is(end, *INFINITE) else abs(end)]
    fixed = {transforms.ExpTransform: (0.0, np.inf), transforms.SigmoidTransform: (0.0, 1.0), transforms.SoftplusTransform: (0.0, np.inf)}  # fmt: skip
    if kind in fixed:
        low, high = fixed[kind]
        return lambda end: [low] if _is(end, -np.inf) else [high] if _is(end, np.inf) else [transform(end)]
    return None


def _affine(end: Any, loc: Any, scale: Any) -> list[Any]:
    """The images of an end. An infinite end stays infinite. An end at 0 is moved by loc but not by scale."""
    if _is(end, *INFINITE):
        side = np.sign(np.asarray(scale)) * end if _is_known(scale) and np.ndim(scale) == 0 else np.nan
        return [float(side)] if np.isinf(side) else list(INFINITE)
    return [loc] if _is(end, 0.0) else [loc + scale * end]


def _power(end: Any, exponent: Any) -> list[Any]:
    if _is(end, 1.0):
        return [1.0]
    if _is(end, 0.0, *INFINITE):
        if not (_is_known(exponent) and np.ndim(exponent) == 0):
            return [0.0, np.inf]
        return [np.inf if _is(end, 0.0) == (np.asarray(exponent) < 0) else 0.0]
    return [end**exponent]


def _fills(ends: Ends, transform: Any) -> bool:
    """Whether the support is the whole domain of the transform. The image is then its codomain."""
    if not (_defines_codomain(transform)):
        return False
    try:
        domain, _ = _of_constraint(transform.domain)
        transform.codomain  # noqa: B018
    except NotImplementedError:
        return False
    if isinstance(ends, constraints.Constraint) or isinstance(domain, constraints.Constraint):
        return type(ends) is type(domain) and not jax.tree.leaves(domain)
    return len(ends) == len(domain) and all(
        _is_known(a) and _is(b, *np.ravel(a)) for a, b in zip(domain, ends, strict=True)
    )


def _defines_codomain(transform: Any) -> bool:
    """Whether the class defines a codomain. NumPyro's do; a user's class may only inherit `real`."""
    return type(transform).codomain is not transforms.Transform.codomain


def _by_calling(transform: Any, end: Any) -> list[Any]:
    """The image of an end under an unknown transform. It counts as infinite if several parameters make it so."""
    image = transform(jnp.asarray(end, float))
    if not _is(end, *INFINITE):
        return [image]
    traced = jax.make_jaxpr(lambda x: transform(x))(jnp.zeros(()))
    with jax.ensure_compile_time_eval():
        found = []
        for sign in (1.0, -1.0, 0.5):
            stand_in = lambda c, s=sign: jnp.full(c.shape, s, c.dtype) if isinstance(c, jax.core.Tracer) else c
            known = traced.replace(consts=[stand_in(c) for c in traced.consts])
            found.append(np.asarray(jaxpr_as_fun(known)(jnp.asarray(end, float))[0]))
    if all(np.isinf(x).all() for x in found):
        same = len({float(s) for x in found for s in np.ravel(x)}) == 1
        return [float(np.ravel(found[0])[0])] if same else list(INFINITE)
    return [image]


def _is_known(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer)


def _is(x: Any, *values: float) -> bool:
    """Whether a number is known and is one of `values`."""
    return _is_known(x) and bool(np.isin(np.asarray(x, float), values).all())
