"""The argument of a stochastic program: `draw(q)`, `draw.cost`, `draw.scan` and `draw.key`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike

from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import check_draw
from rgrad.distributions.others import as_distribution
from rgrad.distributions.wrappers import name_of
from rgrad.errors import Unsuitable
from rgrad.estimators.opened import opened, seen
from rgrad.estimators.table import estimator_of, name_of_estimator
from rgrad.expectations.in_place import Event, cost, guard_of, is_in_place, steps
from rgrad.protocols import Distribution, Estimator, Sample

Carry = TypeVar("Carry")
Body = Callable[["Draw", Carry, Any], tuple[Carry, Any]]


class Site(NamedTuple):
    """One draw of a program, or the draws of one name in all steps of a scan."""

    name: str
    """In a scan: the name of the scan, a dot, and the name of the draw."""
    distribution: Any
    """In a scan: that of the first step."""
    estimator: str
    """Its name in `rgrad.ESTIMATORS`, or its own."""
    value: Sample
    """In a scan: the values of all steps, along the first axis."""


class Runner(Protocol):
    """What a run of a program does at its draws."""

    names_sites: bool
    """Whether it is a run for `trace_program`."""

    def default(self, q: Any) -> Estimator:
        """The estimator of a draw that names none."""

    def sample(self, draw: Draw, q: Any, estimator: Estimator, name: str, key: Array) -> tuple[Sample, list[Event]]:
        """One sample, and what it adds to the events."""


class Draw:
    """The argument of a program.

    `draw(q)` returns one sample of `q`, `draw.cost(value)` adds a cost at this point, `draw.scan(body, init, xs)` is a
    loop with draws in each step, and `draw.key()` returns a PRNG key for randomness of the program's own, e.g. of an
    `rgrad.expect` in it.

    Example:
        >>> def program(draw):
        ...     x = draw(dist.Normal(0.0, 1.0))
        ...     draw.cost(x**2)  # a cost at this point: its mean is 1
        ...     last, _ = draw.scan(lambda draw, y, _: (draw(dist.Normal(y, 1.0)), None), x, length=3)
        ...     return last**2  # a cost at the end: its mean is 4
        >>> print(f"{jax.jit(lambda key: rgrad.expect_program(program, key, n=10_000))(key):.1f}")
        5.0
    """

    def __init__(self, run: Runner, key: Array, given: tuple[Any, ...] = (), in_scan: str | None = None):
        self._run, self._key, self._given, self._in_scan = run, key, given, in_scan
        self._keys = 0
        self._names: list[str] = []
        self._values: list[Any] = []
        """Of the draws and scans so far."""
        self._events: list[Event] = []
        """Those after the last given value. The runs that had fewer values charge those before it."""
        self._outside = get_opaque_trace_state()

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
        name = self._named(name, "draw", f"draw({name_of(q)}, ")
        q = as_distribution(q, "draw")
        chosen = self._run.default(q) if estimator is None else estimator_of(estimator, "draw")
        position = len(self._values)
        if position < len(self._given):
            return seen(self._keep(self._given[position], []), q, chosen)
        check_draw(q, 1, "draw")
        if (together := dependent_draws(q)) is not None:
            raise Unsuitable(f"draw: {together.prefix} draws need several samples of one distribution; pass q itself")
        if self._in_scan is not None and not is_in_place(chosen):
            raise Unsuitable(
                f"draw.scan: {name!r} in {self._in_scan!r}: {name_of_estimator(chosen)} evaluates the rest of the program "
                "itself, and a step of a scan has no rest that can be evaluated; use reparameterized, or score_function "
                "(with a baseline), or write a Python loop"
            )
        # The value that is kept is that of the estimator; a person reads that of the program.
        bare = q if self._run.names_sites else opened(lambda x: x, q, chosen)[1]
        key = jax.random.fold_in(self._key, position)
        return seen(self._keep(*self._run.sample(self, bare, chosen, name, key)), q, chosen)

    def cost(self, value: ArrayLike) -> None:
        """Adds a cost at this point of the program. A draw is charged only with the costs that come after it.

        Args:
            value: a scalar. It may depend on all draws so far, and on the parameters.
        """
        self._check_place("draw.cost")
        if jnp.shape(value) != ():
            raise ValueError(f"draw.cost: value must be a scalar, got shape {jnp.shape(value)}; pass its sum")
        if len(self._values) >= len(self._given):
            self._events.append(cost(value))

    def scan(
        self, body: Body[Carry], init: Carry, xs: Any = None, length: int | None = None, name: str | None = None
    ) -> tuple[Carry, Any]:
        """A loop with draws in each step: `jax.lax.scan`, traced and compiled once for all steps.

            def step(draw, x, t):
                x = draw(dist.Normal(0.9 * x + theta, 1.0), "score_function+leave_one_out")
                draw.cost(x**2)     # charged to the draws of this step and of those before it
                return x, x

            last, path = draw.scan(step, 0.0, length=1000)

        Each step has a `draw` of its own. Its estimators are those that evaluate the rest of the program once:
        `reparameterized`, and `score_function` with any baseline over the particles. Costs and draws, in the scan and
        around it, are charged as in a Python loop. So derivatives of every order are correct.

        Counts that may exceed 46,340 (Poisson, Binomial(10**5, p)) are floats.

        Args:
            body: `body(draw, carry, x) -> (carry, y)`. It must not use the `draw` of the program around it. A baseline
                that is a function must not close over values of the step; a baseline that is a number may be one.
            init: the first carry. As in `lax.scan`, the carry keeps its shapes and dtypes.
            xs: arrays whose first axis are the steps.
            length: the number of steps, if xs is None.
            name: for messages and `rgrad.trace_program`.

        Returns:
            The last carry, and the y of all steps along the first axis.

        Raises:
            ValueError: two scans have this name; neither xs nor length is given; the scan is inside a JAX
                transformation within the program; or an estimator evaluates the rest of the program several times.
        """
        name = self._named(name, "scan", "draw.scan(")
        position = len(self._values)
        if position < len(self._given):
            return self._keep(self._given[position], [])
        if not callable(body):
            raise TypeError(f"draw.scan: body must be callable, got {type(body).__name__} {body!r}")
        leaves = jax.tree.leaves(xs)
        if any(jnp.ndim(x) == 0 for x in leaves):
            raise ValueError("draw.scan: xs has a scalar; the first axis of its arrays must be the steps")
        if length is None and not leaves:
            raise ValueError("draw.scan: the number of steps is unknown; pass xs, or length")
        length = jnp.shape(leaves[0])[0] if length is None else length
        own = jax.random.fold_in(self._key, position)
        charges: list[Any] = []

        def run_step(t: Any, carry: Carry, x: Any) -> tuple[Carry, Any, list[Event]]:
            draw = Draw(self._run, jax.random.fold_in(own, t), in_scan=name)
            returned = body(draw, carry, x)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise TypeError(f"draw.scan: body must return a pair (carry, y), got {type(returned).__name__}")
            return *returned, draw._events

        def step(carry: Carry, at: tuple[Array, Any]) -> tuple[Carry, Any]:
            carry, y, events = run_step(at[0], carry, at[1])
            charges[:] = [event.charge for event in events]
            return carry, (y, [event.arrays for event in events], guard_of(events))

        carry, (ys, arrays, guards) = lax.scan(step, init, (jnp.arange(length), xs), length)
        sites = None
        if self._run.names_sites and length:  # outside the scan, because the distributions in it are traced
            first = run_step(0, init, jax.tree.map(lambda x: x[0], xs))[2]
            sites = name, [event.site for event in first]
        return self._keep((carry, ys), [steps(charges, arrays, guards, sites)] if charges else [])

    def key(self) -> Array:
        """A PRNG key, another one at each call, and the same ones when the program is run again."""
        self._check_place("draw.key")
        self._keys += 1
        return jax.random.fold_in(self._key, 2**32 - self._keys)

    def _keep(self, value: Any, events: list[Event]) -> Any:
        self._values.append(value)
        self._events += events
        return value

    def _named(self, name: str | None, kind: str, what: str) -> str:
        """The name of a new draw or scan, which is refused in the wrong place."""
        name = f"{kind} {len(self._names)}" if name is None else name
        self._check_place(f"{what}name={name!r})")
        if name in self._names:
            raise ValueError(f"draw: two draws are named {name!r}; give each its own name")
        self._names.append(name)
        return name

    def _check_place(self, what: str) -> None:
        if get_opaque_trace_state() != self._outside:
            raise ValueError(
                f"{what}: this is inside a JAX transformation (vmap, jit, scan, cond, grad, checkpoint, ...) within the "
                "program; use a Python loop, draw.scan (with the draw that its body receives), or one event, e.g. "
                "Normal(loc, scale).to_event(1)"
            )
