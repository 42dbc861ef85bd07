"""Stochastic programs: a function with several random draws, and an estimator at each of them.

*The rest of the program is the f of a draw.* A program is run with the values drawn so far. Its next draw unwinds out of
it by an exception that carries `q` and the estimator, and the estimator is then called with an f that runs the program
again, with one more value. So every estimator, with its bias and its order of derivatives, is used as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike

from rgrad.backend.keys import check_key
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import check_draw
from rgrad.distributions.implicit import sample as sample_from
from rgrad.distributions.others import as_distribution
from rgrad.distributions.wrappers import name_of
from rgrad.errors import Unsuitable
from rgrad.estimators.opened import opened, seen
from rgrad.estimators.table import estimator_of, name_of_estimator, naming_others
from rgrad.expectations.particles import PARTICLES, default_estimator, over_particles
from rgrad.protocols import Distribution, Estimator, Sample

Program = Callable[["Draw"], ArrayLike]


class Site(NamedTuple):
    """One draw of a program."""

    name: str
    distribution: Any
    estimator: str
    """Its name in `rgrad.ESTIMATORS`, or its own."""
    value: Sample


class Draw:
    """The argument of a program.

    `draw(q)` returns one sample of `q`, `draw.cost(value)` adds a cost at this point, and `draw.key()` returns a PRNG key
    for randomness of the program's own, e.g. of an `rgrad.expect` in it.
    """

    def __init__(self, next_value: Any, given: tuple[Sample, ...] | None, default: Any, key: Array):
        self._next_value, self._given, self._default, self._key = next_value, given, default, key
        self._keys = 0
        self._names: list[str] = []
        self._outside = get_opaque_trace_state()
        self._spent: Any = 0.0
        """The costs after the last given value. Those before it are counted by the runs that had fewer values. Without
        `given`, all of them.
        """

    def __call__(self, q: Distribution, estimator: Estimator | str | None = None, name: str | None = None) -> Sample:
        """One sample of `q`, of shape `q.event_shape`.

        Args:
            q: a `Distribution` of one sample.
            estimator: how the gradient passes this draw: a function, or a name of `rgrad.ESTIMATORS`. None:
                the default of the program.
            name: for messages and `rgrad.trace_program`. None: `draw 0`, `draw 1`, ... in the order of the program.

        Raises:
            ValueError: two draws have this name; the draw is inside a JAX transformation within the program; or `q` is
                not the distribution of one independent sample.
        """
        position = len(self._names)
        name = f"draw {position}" if name is None else name
        self._check_place(f"draw({name_of(q)}, name={name!r})")
        if name in self._names:
            raise ValueError(f"draw: two draws are named {name!r}; give each its own name")
        self._names.append(name)
        q = as_distribution(q, "draw")
        chosen = self._default(q) if estimator is None else estimator_of(estimator, "draw")
        if self._given is not None and position < len(self._given):
            return seen(self._given[position], q, chosen)
        check_draw(q, 1, "draw")
        if (together := dependent_draws(q)) is not None:
            raise Unsuitable(f"draw: {together.prefix} draws need several samples of one distribution; pass q itself")
        return self._next_value(q, chosen, name)

    def cost(self, value: ArrayLike) -> None:
        """Adds a cost at this point of the program. A draw is charged only with the costs that come after it.

        Args:
            value: a scalar. It may depend on all draws so far, and on the parameters.
        """
        self._check_place("draw.cost")
        if jnp.shape(value) != ():
            raise ValueError(f"draw.cost: value must be a scalar, got shape {jnp.shape(value)}; pass its sum")
        if self._given is None or len(self._names) == len(self._given):
            self._spent = self._spent + value

    def key(self) -> Array:
        """A PRNG key, another one at each call, and the same ones when the program is run again."""
        self._check_place("draw.key")
        self._keys += 1
        return jax.random.fold_in(self._key, 2**32 - self._keys)

    def _check_place(self, what: str) -> None:
        if get_opaque_trace_state() != self._outside:
            raise ValueError(
                f"{what}: this is inside a JAX transformation (vmap, jit, scan, cond, grad, checkpoint, ...) within the "
                "program; use a Python loop, or draw one event, e.g. Normal(loc, scale).to_event(1)"
            )


class _Reached(BaseException):
    """Unwinds out of a program at the first draw that has no value. Not an `Exception`, so that programs do not catch it."""

    def __init__(self, *site: Any):
        self.site = site


def expect_program(program: Program, key: Array, n: int = 1, estimator: Estimator | str | None = None) -> Array:
    """An estimate of the expected cost of a stochastic program, whose `jax.grad` is an estimate of its gradient.

        def program(draw):
            x = draw(dist.Normal(theta, 1.0))                            # reparameterized
            b = draw(dist.Bernoulli(logits=x), rgrad.enumerated)         # summed exactly, whatever follows
            return (x - b) ** 2

        rgrad.expect_program(program, key, n=100)

    Each draw may use another estimator, and any estimator of `rgrad.ESTIMATORS` or of your own. If all of them are
    unbiased, so is the whole. Higher derivatives are correct up to the order that all of its estimators support.
    Estimators that evaluate f several times run the rest of the program as often: K times for `enumerated`, twice for each parameter
    coordinate and once more for `measure_valued`.

    A draw is charged only with the costs that come after it: those of `draw.cost(value)`, and the returned value, which
    is a cost at the end.

    Between the draws a program may do anything: `jax.lax.scan`, `rgrad.expect`, another program. The draws themselves
    must not be inside a JAX transformation within the program. Their number must not depend on values. The program is
    traced once for each draw (more often by estimators that evaluate f several times), so it must not have side effects.

    Args:
        program: `program(draw) -> scalar`. The parameters enter through the closure. See `Draw`.
        key: one PRNG key. Draw i of a particle uses `fold_in(key of the particle, i)`, and call i of `draw.key()` uses
            `fold_in(key of the particle, 2^32 - i)`.
        n: the number of particles: independent runs of the program. Baselines such as `leave_one_out` are computed over
            the particles.
        estimator: for draws that name none. None: `reparameterized` if `q` has it, otherwise `score_function`, with
            `leave_one_out` if n >= 2.

    Returns:
        A scalar, per call: the mean over the particles.

    Raises:
        TypeError: the program is not callable.
        ValueError: the program does not return one number; a draw is inside a transformation; two draws have one name;
            `leave_one_out` with n = 1; a baseline that needs a state (`moving_average`) or the scores (`optimal`).
        rgrad.NotApplicable: an estimator does not apply to its draw.

    Source: Schulman et al. 2015, Gradient estimation using stochastic computation graphs,
    https://arxiv.org/abs/1506.05254; one estimator for each draw: Lew et al. 2023, ADEV,
    https://arxiv.org/abs/2212.06386.
    """
    warn_if_wrong()
    if not callable(program):
        raise TypeError(f"expect_program: program must be callable, got {type(program).__name__} {program!r}")
    _check_n(n, "expect_program")
    check_key(key, "expect_program")
    chosen = None if estimator is None else estimator_of(estimator, "expect_program")
    default = lambda q: default_estimator(q, n > 1) if chosen is None else chosen
    one = lambda key: _run(program, key, n, default, ())
    return jax.vmap(one, axis_name=PARTICLES)(jax.random.split(key, n)).mean()


def _check_n(n: int, caller: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{caller}: n = {n!r} is not an int; it is a shape, so it must be a Python int, not traced")
    if n < 1:
        raise ValueError(f"{caller}: n = {n} particles; ask for at least 1")


def _run(program: Program, key: Array, n: int, default: Any, given: tuple[Sample, ...]) -> Array:
    """The estimated cost after the given values: the program runs with them, and its next draw calls its estimator."""

    def unwind(q: Any, estimator: Estimator, name: str) -> Sample:
        raise _Reached(draw, q, estimator, name)

    draw = Draw(unwind, given, default, key)
    try:
        return draw._spent + _scalar(program(draw))
    except _Reached as reached:
        owner, q, estimator, _ = reached.site
        if owner is not draw:  # the draw of a program around this one
            raise
    _, q = opened(lambda x: x, q, estimator)  # the program itself converts the samples
    rest = lambda x: _run(program, key, n, default, (*given, x))
    with naming_others(q):
        (term,) = over_particles(estimator, n, "draw")(rest, q, jax.random.fold_in(key, len(given)), 1)
    return draw._spent + term


def _scalar(value: Any) -> Array:
    if value is None or not hasattr(jnp.asarray(value), "shape") or jnp.shape(value) != ():
        shape = "None" if value is None else f"shape {jnp.shape(value)}"
        raise ValueError(f"expect_program: the program must return one number, its cost at the end, got {shape}")
    return jnp.asarray(value, jnp.result_type(value, float))


class ProgramTrace(NamedTuple):
    """One run of a program, for a person to read. `print` shows it as a table."""

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

        print(rgrad.trace_program(program, key))

    Args: as in `expect_program`. n only determines the default estimators.

    Raises: as `expect_program`.
    """
    _check_n(n, "trace_program")
    check_key(key, "trace_program")
    chosen = None if estimator is None else estimator_of(estimator, "trace_program")
    sites: list[Site] = []

    def sampled(q: Any, estimator: Estimator, name: str) -> Sample:
        over_particles(estimator, n, "draw")
        value = jax.tree.map(lambda x: x[0], sample_from(q, jax.random.fold_in(key, len(sites)), (1,)))
        sites.append(Site(name, q, name_of_estimator(estimator), value))
        return value

    draw = Draw(sampled, None, lambda q: default_estimator(q, n > 1) if chosen is None else chosen, key)
    last = _scalar(program(draw))
    return ProgramTrace(tuple(sites), draw._spent + last)
