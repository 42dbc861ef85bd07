"""A problem, its estimators, and the measurement of their gradients, for all experiments."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import validation_enabled

import rgrad
from experiments.common.errors import UsageError
from experiments.common.loading import expanded, load_estimator, load_problem, where_and_what
from experiments.common.progress import Advance
from experiments.common.settings import ProblemSettings
from rgrad.distributions import check_draw, evaluate, name_of
from rgrad.problems import Point, gradient, labels_of, named, names_to_differentiate, point_of

CHUNK = 2**24  # draws between updates of the progress bar
PILOT = 10_000  # draws of x for a first test of the objective
FEW = 200  # below this many degrees of freedom, the interval of a variance covers less than its nominal level


class Measured(NamedTuple):
    """The moments of the gradient estimates for one n, by estimator and parameter."""

    n: int
    moments: rgrad.Moments

    @property
    def weak(self) -> set[tuple[str, str, int]]:
        """The rows (estimator, parameter, n) whose variance interval covers less than its nominal level."""
        return {
            (estimator, label, self.n)
            for estimator, freedoms in self.moments.variance_freedom.items()
            for name, freedom in freedoms.items()
            for label, f, v in zip(
                labels_of(name, freedom),
                np.ravel(freedom),
                np.ravel(self.moments.variance[estimator][name]),
                strict=True,
            )
            if v > 0 and not f >= FEW
        }


class ProblemTask(NamedTuple):
    """What to measure: a problem at a point, the parameters to differentiate, and the estimators by name."""

    name: str
    problem: rgrad.Problem
    point: Point
    wrt: tuple[str, ...]
    estimators: Mapping[str, rgrad.Estimator]
    left_out: Mapping[str, str] = MappingProxyType({})
    """The estimators that `--estimators all` leaves out, with the reason."""

    def gradients(self, n: int) -> Callable[[jax.Array], dict[str, dict[str, jax.Array]]]:
        """One call of every estimator, with the same key. They share one program and the same draws."""
        return lambda key: {
            name: gradient(self.problem, self.point, self.wrt, key, n, estimator)
            for name, estimator in self.estimators.items()
        }

    def measure(self, key: jax.Array, n: int, replicates: int, advance: Advance) -> Measured:
        """The moments of gradient estimates from n samples, over the replicates.

        Raises:
            UsageError: a gradient is nan or infinite.
        """
        draw = self.gradients(n)
        chunk = 2 ** max(0, (CHUNK // n).bit_length() - 1)
        moments = None
        for start in range(0, replicates, chunk):
            count = min(chunk, replicates - start)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about draws that are nan: `_check_finite` says more
                part = rgrad.measure(draw, key, count, start=start)
            moments = part if moments is None else moments.merge(part)
            self._check_finite(moments, n)
            advance(count * n)
        assert moments is not None
        return Measured(n, moments)

    def _check_finite(self, moments: rgrad.Moments, n: int) -> None:
        for estimator, counts in moments.nonfinite.items():
            for name, count in counts.items():
                if worst := int(np.max(count)):
                    raise UsageError(
                        f"{estimator}: its gradient for {name} was nan or infinite in {worst:,} of "
                        f"{int(moments.count):,} estimates of {n} samples, although the objective was finite; check "
                        "its derivative (e.g. a root or a logarithm at 0), or try --float-width 64"
                    )

    def exact(self) -> dict[str, rgrad.ExactMoments | None]:
        return {
            name: rgrad.exact_moments(self.problem, estimator, self.point, self.wrt)
            for name, estimator in self.estimators.items()
        }


def prepare(
    settings: ProblemSettings, name: str, estimators: tuple[str, ...], num_samples: tuple[int, ...]
) -> ProblemTask:
    """The task that the settings describe. It is tested before anything is written or measured.

    Raises:
        UsageError: the problem, its parameters or an estimator for it is invalid.
    """
    task = tried(settings, name, estimators)
    left_out = {}
    for name, estimator in task.estimators.items():
        alone = task._replace(estimators={name: estimator})
        try:
            for n in num_samples:
                # Tracing is enough, because rgrad raises its errors then. The parameters are already validated.
                with usage(f"{name} with n = {n}", Exception), validation_enabled(False):
                    jax.eval_shape(alone.gradients(n), jax.random.key(0))
        except UsageError as error:
            if name in estimators:  # asked for by name
                raise
            left_out[name] = str(error)
    kept = {name: estimator for name, estimator in task.estimators.items() if name not in left_out}
    if not kept:
        raise UsageError(f"--estimators {' '.join(estimators)}: no estimator applies; {next(iter(left_out.values()))}")
    return task._replace(estimators=kept, left_out=left_out)


def tried(settings: ProblemSettings, name: str, estimators: tuple[str, ...]) -> ProblemTask:
    """The problem at its point, tested on a few draws, and the estimators by name, not tested.

    Raises:
        UsageError: the problem, its parameters or the name of an estimator is invalid.
    """
    with usage(f"--problem {name}", ValueError):
        problem = named(load_problem(name))
    with usage("--params" if settings.params else f"--problem {name}", ValueError):
        point = point_of(problem, dict(settings.params))
    with usage("--wrt" if settings.wrt else f"--problem {name}", ValueError):
        wrt = names_to_differentiate(problem, point, settings.wrt)
    task = ProblemTask(name, problem, point, wrt, {name: load_estimator(name) for name in expanded(estimators)})
    _try_objective(task, _distribution(task), settings.seed)
    return task


def _distribution(task: ProblemTask) -> Any:
    """The distribution of the problem at its point, with its parameters checked."""
    with usage(f"--problem {task.name}: distribution{_hint(task)}", Exception):
        with validation_enabled(False):
            q = task.problem.distribution(task.point)
        _check_arguments(q)
        with validation_enabled():
            return task.problem.distribution(task.point)


def _hint(task: ProblemTask) -> str:
    """A hint for the error message if a function of the problem raises."""
    if isinstance(getattr(task.problem, "origin", task.problem), type):
        return " (this is a class: its functions must not take self; or give an instance)"
    changed = [n for n, value in task.problem.params.items() if jnp.shape(value) != task.point[n].shape]
    return f" (--params {', '.join(changed)} has another shape than the default)" if changed else ""


def _check_arguments(q: Any) -> None:
    """Raises UsageError if a parameter of a NumPyro distribution violates its constraint. Names the parameter."""
    for name, constraint in getattr(q, "arg_constraints", {}).items():
        value = vars(q).get(name)
        try:
            allowed = value is None or np.all(constraint(value))
        except (ValueError, NotImplementedError):  # the constraint depends on other parameters, e.g. low < high
            continue
        if not allowed:
            rule = type(constraint).__name__.strip("_")
            raise UsageError(
                f"--params: {name_of(q)} got {name} = {np.asarray(value).tolist()}, which is not allowed "
                f"(constraint: {rule}); give another value"
            )
    if hasattr(q, "base_dist"):
        _check_arguments(q.base_dist)


def _try_objective(task: ProblemTask, q: Any, seed: int) -> None:
    """Raises UsageError if the objective raises, or if it is nan or infinite for any of the first draws."""
    with usage(f"--problem {task.name}{_hint(task)}", Exception):
        check_draw(q, PILOT, "distribution")
        x = q.sample(jax.random.key(seed), (PILOT,))
        values = evaluate(partial(task.problem.objective, task.point), x, PILOT, "objective")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        example = np.array2string(np.asarray(jax.tree.leaves(x)[0][bad[0]]), precision=4)
        raise UsageError(
            f"--problem {task.name}: objective is nan or infinite for {bad.size:,} of {PILOT:,} draws, e.g. at x = {example}; "
            "make it finite on the whole support of the distribution"
        )


def to_rows(task: ProblemTask, measured: list[Measured]) -> list[dict[str, Any]]:
    """One row for each parameter coordinate, n and estimator, with measured and exact values."""
    exact = task.exact()
    rows = []
    for name in task.wrt:
        for i, label in enumerate(labels_of(name, task.point[name])):
            for n, moments in measured:
                low, high = moments.variance_interval()
                for estimator in task.estimators:
                    at = lambda tree, e=estimator: float(np.ravel(tree[e][name])[i])  # noqa: B023
                    truth = exact[estimator]
                    rows.append({
                        "estimator": estimator,
                        "parameter": label,
                        "n": n,
                        "replicates": int(moments.count),
                        "mean": at(moments.mean),
                        "standard_error": at(moments.standard_error),
                        "variance": at(moments.variance),
                        "variance_low": at(low),
                        "variance_high": at(high),
                        "exact_mean": None if truth is None else float(np.ravel(truth.mean[name])[i]),
                        "exact_variance": None if truth is None else float(np.ravel(truth.variance(n)[name])[i]),
                    })  # fmt: skip
    return rows


@contextmanager
def usage(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds into a UsageError of one line, with the place in the user's code that raised it."""
    try:
        yield
    except UsageError:
        raise
    except SystemExit as error:
        raise UsageError(f"{where}: {where_and_what(error)} ended the run; remove the call of sys.exit") from None
    except kinds as error:
        ours = isinstance(error, ValueError | TypeError | NotImplementedError) and "rgrad" in _raised_in(error)
        text = " ".join(str(error).split()) if ours else where_and_what(error)
        raise UsageError(f"{where}: {text}" if where else text) from None


def _raised_in(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return str(frame.tb_frame.f_globals.get("__name__", "")) if frame is not None else ""
