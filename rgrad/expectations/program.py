"""Stochastic programs: a function with several random draws, and an estimator at each of them.

*The rest of the program is the f of a draw.* An estimator that evaluates f once, at its own sample, is drawn in place:
the program goes on with the sample, and the score is attached at the end (`rgrad.expectations.in_place`). A draw with
any other estimator unwinds out of the program by an exception that carries `q` and the estimator. The estimator is then
called with an f that runs the program again, with one more value. So every estimator, with its bias and its order of
derivatives, is used as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rgrad.backend.keys import check_key
from rgrad.backend.noise import fold_in, split
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.distributions.implicit import sample as sample_from
from rgrad.distributions.wrappers import name_of
from rgrad.estimators.table import estimator_of, name_of_estimator, naming_others
from rgrad.expectations.draw import Draw, Site
from rgrad.expectations.in_place import Event, cost_to_go, drawn_in_place
from rgrad.expectations.particles import PARTICLES, default_estimator, over_particles
from rgrad.protocols import Estimator, Sample

Program = Callable[[Draw], ArrayLike]


class _Reached(BaseException):
    """Unwinds out of a program at a draw whose estimator evaluates the rest. Not an `Exception`, so no program catches it."""

    def __init__(self, draw: Draw, q: Any, estimator: Estimator):
        self.draw, self.q, self.estimator = draw, q, estimator


class _Estimate:
    """A run that draws in place if possible, and otherwise unwinds.

    Args:
        n: the number of particles.
        default: the estimator of a draw that names none, as a function of its distribution.
    """

    names_sites = False

    def __init__(self, n: int, default: Callable[[Any], Estimator]):
        self.n, self.default = n, default

    def sample(self, draw: Draw, q: Any, estimator: Estimator, name: str, key: Array) -> tuple[Sample, list[Event]]:
        found = drawn_in_place(q, estimator, key, self.n, draw._in_scan is not None)
        if found is None:
            raise _Reached(draw, q, estimator)
        return found


class _Show(_Estimate):
    """A run for a person to read, without derivatives."""

    names_sites = True

    def sample(self, draw: Draw, q: Any, estimator: Estimator, name: str, key: Array) -> tuple[Sample, list[Event]]:
        over_particles(estimator, self.n, "draw")
        value = jax.tree.map(lambda x: x[0], sample_from(q, key, (1,)))
        site = Site(name, q, name_of_estimator(estimator), value)
        return value, [Event(lambda after, _: after, value, site=site)]


def expect_program(program: Program, key: Array, n: int = 1, estimator: Estimator | str | None = None) -> Array:
    """An estimate of the expected cost of a stochastic program, whose `jax.grad` is an estimate of its gradient.

    Each draw may use another estimator, and any estimator of `rgrad.ESTIMATORS` or of your own. If all of them are
    unbiased, so is the whole. Higher derivatives are correct up to the order that all of its estimators support.
    Estimators that evaluate f several times run the rest of the program as often: K times for `enumerated`, twice for each parameter
    coordinate and once more for `measure_valued`.

    A draw is charged only with the costs that come after it: those of `draw.cost(value)`, and the returned value, which
    is a cost at the end.

    Between the draws a program may do anything: `jax.lax.scan`, `rgrad.expect`, another program. The draws themselves
    must not be inside a JAX transformation within the program, except for the steps of a `draw.scan`. Their number must
    not depend on values.

    The program is traced once for all draws by `reparameterized`, and by `score_function` with at most a baseline. Each
    draw by another estimator traces it again (more often if the estimator evaluates f several times). So the program
    must not have side effects.

    Args:
        program: `program(draw) -> scalar`. The parameters enter through the closure. See `Draw`.
        key: one PRNG key. Draw or scan i of a particle uses `fold_in(key of the particle, i)`, and call i of
            `draw.key()` uses `fold_in(key of the particle, 2^32 - i)`. Step t of a scan uses `fold_in(key of the scan, t)`
            in the same way.
        n: the number of particles: independent runs of the program. Baselines such as `leave_one_out` are computed over
            the particles.
        estimator: for draws that name none. None: `reparameterized` if `q` has it and is not a mixture, otherwise
            `score_function`, with `leave_one_out` if n >= 2.

    Returns:
        A scalar, per call: the mean over the particles.

    Raises:
        TypeError: the program is not callable, or a cost is complex.
        ValueError: the program does not return one number; a draw is inside a transformation; two draws have one name;
            `leave_one_out` with n = 1; a baseline that needs a state (`moving_average`) or the scores (`optimal`).
        rgrad.NotApplicable: an estimator does not apply to its draw.

    Example:
        >>> def loss(theta):
        ...     def program(draw):
        ...         x = draw(dist.Normal(theta, 1.0))
        ...         b = draw(dist.Bernoulli(0.5), "enumerated")
        ...         return b * x**2
        ...     return rgrad.expect_program(program, key, n=1000)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is theta
        2.0

    Source: Schulman et al. 2015, Gradient estimation using stochastic computation graphs,
    https://arxiv.org/abs/1506.05254; one estimator for each draw: Lew et al. 2023, ADEV,
    https://arxiv.org/abs/2212.06386.
    """
    warn_if_wrong()
    if not callable(program):
        raise TypeError(f"expect_program: program must be callable, got {type(program).__name__} {program!r}")
    _check_n(n, "expect_program")
    check_key(key, "expect_program")
    run = _Estimate(n, _default(estimator, n, "expect_program"))
    one = lambda key: _run(program, key, run, ())
    return jax.vmap(one, axis_name=PARTICLES)(split(key, n)).mean()


def _check_n(n: int, caller: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{caller}: n = {n!r} is not an int; it is a shape, so it must be a Python int, not traced")
    if n < 1:
        raise ValueError(f"{caller}: n = {n} particles; ask for at least 1")


def _default(estimator: Estimator | str | None, n: int, caller: str) -> Callable[[Any], Estimator]:
    if estimator is None:
        return lambda q: default_estimator(q, n > 1)
    chosen = estimator_of(estimator, caller)
    return lambda q: chosen


def _run(program: Program, key: Array, run: _Estimate, given: tuple[Any, ...]) -> Array:
    """The estimated cost after the given values: the program runs with them, until a draw whose estimator runs it again."""
    draw = Draw(run, key, given)
    try:
        last = _scalar(program(draw))
    except _Reached as reached:
        if reached.draw is not draw:  # the draw of a program around this one
            raise
        values, q = draw._values, reached.q
        rest = lambda x: _run(program, key, run, (*values, x))
        with naming_others(q):
            estimator = over_particles(reached.estimator, run.n, "draw")
            (last,) = estimator(rest, q, fold_in(key, len(values)), 1)
    total = cost_to_go(last, draw._events)
    if jnp.iscomplexobj(total):
        raise TypeError(f"expect_program: the costs must be real numbers, got {total.dtype}; return their real part")
    return total


def _scalar(value: Any) -> Array:
    if value is None or not hasattr(jnp.asarray(value), "shape") or jnp.shape(value) != ():
        shape = "None" if value is None else f"shape {jnp.shape(value)}"
        raise ValueError(f"expect_program: the program must return one number, its cost at the end, got {shape}")
    return jnp.asarray(value, jnp.result_type(value, float))


class ProgramTrace(NamedTuple):
    """One run of a program, for a person to read. `print` shows it as a table.

    Example:
        >>> trace = rgrad.trace_program(lambda draw: draw(dist.Normal(2.0, 1.0), name="x") ** 2, key)
        >>> site = trace.sites[0]
        >>> print(site.name, bool(trace.cost == site.value**2))
        x True
    """

    sites: tuple[Site, ...]
    cost: Array
    """The sum of all costs."""

    def __str__(self) -> str:
        rows = [("draw", "distribution", "estimator", "value")]
        rows += [(s.name, name_of(s.distribution), s.estimator, _short(s.value)) for s in self.sites]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, f"cost: {_short(self.cost)}"])


def _short(value: Any) -> str:
    return " ".join(str(jax.tree.map(lambda x: jnp.round(x, 4).tolist(), value)).split())[:60]


def trace_program(program: Program, key: Array, n: int = 1, estimator: Estimator | str | None = None) -> ProgramTrace:
    """The draws of one run of a program, in order: name, distribution, estimator and value.

    Args: as in `expect_program`. n only determines the default estimators.

    Raises: as `expect_program`.

    Example:
        >>> def program(draw):
        ...     a = draw(dist.Bernoulli(0.5), name="a")
        ...     return draw(dist.Bernoulli(0.2 + 0.6 * a), "enumerated", name="b")
        >>> print(rgrad.trace_program(program, key))
        draw  distribution  estimator       value
        a     Bernoulli     score_function  0
        b     Bernoulli     enumerated      1
        cost: 1.0
    """
    _check_n(n, "trace_program")
    check_key(key, "trace_program")
    draw = Draw(_Show(n, _default(estimator, n, "trace_program")), key)
    last = _scalar(program(draw))
    sites = [site for event in draw._events for site in _sites(event.site, event.arrays)]
    return ProgramTrace(tuple(sites), cost_to_go(last, draw._events))


def _sites(site: Any, values: Any, scan: str = "") -> Iterator[Site]:
    """The sites of an event. Those of a scan come as its name and the sites of its first step."""
    if isinstance(site, Site):
        yield site._replace(name=scan + site.name, value=values)
    elif site is not None:
        name, inner = site
        for one, of_steps in zip(inner, values, strict=True):
            yield from _sites(one, of_steps, f"{scan}{name}.")
