"""Names for parameters: a flat dict in place of any pytree of numbers, and back."""

import dataclasses
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rgrad.protocols import Params

PLAIN = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)  # keys of containers that are not classes
WHOLE = "params"  # the name of a parameter that is not in a container


def flattened(
    params: Params, caller: str = ""
) -> tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], Params] | None]:
    """The parameters by name, and the function that makes the original structure from a point.

    The names are the paths in the pytree, joined by dots: `{"q": {"loc": 0.0}, "net": [w, b]}` has the parameters
    `q.loc`, `net.0` and `net.1`. A number or an array that is not in a container is called `params`. A list of numbers
    is an array, unless it is the whole of `params`.

    A flat dict has its names already. It is returned as it is, with None in place of the function.

    Raises:
        ValueError: there are no parameters, two have the same name, or one of them is None.
    """
    where = f"{caller}: " if caller else ""
    if isinstance(params, Mapping) and params and all(isinstance(k, str) and _is_one(v) for k, v in params.items()):
        return params, None
    inner = lambda x: x is not params and _is_numbers(x)
    structure: Any
    try:
        found, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=inner)
        with_none = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: x is None or inner(x))
    except (TypeError, ValueError) as error:  # keys that cannot be sorted
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}params is not a valid pytree ({reason}); use text for all keys of a dict") from None
    for path, value in with_none:
        # In a class, None marks a part that is left out, e.g. the bias of a layer. In a plain container it is a mistake.
        if value is None and (not path or isinstance(path[-1], PLAIN)):
            raise ValueError(f"{where}parameter {_name_of(path)} is None; give a number or an array")
    if not found:
        raise ValueError(f"{where}params must contain at least one number or array, got {params!r}")
    names = [_name_of(path) for path, _ in found]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"{where}two parameters are called {name!r}, the path of their keys; rename one of the keys"
            )
    return dict(zip(names, (value for _, value in found), strict=True)), lambda point: structure.unflatten(
        [point[name] for name in names]
    )


def _is_one(value: Any) -> bool:
    """Whether a value in a flat dict is one parameter: it is not a container, or NumPy makes an array of it."""
    if value is None or jax.tree_util.all_leaves([value]):
        return True
    if hasattr(value, "_fields"):  # the fields of a NamedTuple have names
        return False
    try:
        return np.issubdtype(np.asarray(value).dtype, np.number)
    except ValueError:  # its parts have different shapes
        return False


def _is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or nested lists of numbers, that is an array."""
    several = isinstance(value, list | tuple) and len(value) > 0 and _is_one(value)
    return several and all(map(np.isscalar, jax.tree.leaves(value)))


def _name_of(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".") or WHOLE


def by_name(params: Params | None, names: Sequence[str] | Mapping[str, Any], caller: str = "") -> dict[str, Any]:
    """The values in `params` under these names: from a flat dict, a nested one, or the structure of the problem.

    Raises:
        ValueError: a name is unknown, or has two values.
    """
    where = f"{caller}: " if caller else ""
    found: dict[str, Any] = {}
    for name, value in _parts(params, names, ()) if params is not None else ():
        if name not in names:
            if dataclasses.is_dataclass(value):
                numbers(value, f"{where}parameter {name}")  # raises
            raise ValueError(f"{where}unknown parameter {name!r}; this problem has {', '.join(names)}")
        if name in found:
            raise ValueError(f"{where}parameter {name!r} is given twice; give it once")
        found[name] = value
    return found


def _parts(given: Any, names: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The names and values of the parts of `given` that are parameters, and of the leaves that are not."""
    name = ".".join(path) or WHOLE
    if isinstance(given, Mapping) and (not path or name not in names):
        for key, value in given.items():
            yield from _parts(value, names, (*path, str(key)))
    elif name in names or jax.tree_util.all_leaves([given]):
        yield name, given
    else:
        for (key,), value in jax.tree_util.tree_leaves_with_path(given, is_leaf=lambda x: x is not given):
            if value is not None:
                yield from _parts(value, names, (*path, _name_of((key,))))


def all_in(parts: Any, names: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of `parts`, a name or several: of each parameter itself, and of all parameters in each container.

    A part that is neither stays as it is.
    """
    within = lambda part: [name for name in names if name.startswith(f"{part}.")]
    listed = [str(part) for part in ([parts] if isinstance(parts, str) else parts)]
    return tuple(name for part in listed for name in ([part] if part in names else within(part) or [part]))


def numbers(given: Any, what: str) -> np.ndarray:
    """`given` as a NumPy array of numbers. `what` is for error messages.

    Raises:
        ValueError: it is something else.
    """
    if given is None:
        raise ValueError(f"{what} is None; give a number or an array")
    shown = f"{type(given).__name__} {reprlib.repr(given)}"
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        raise ValueError(f"{what} is an instance of the dataclass {type(given).__name__}, which is not a pytree of JAX; "
                         "register it with jax.tree_util.register_dataclass")  # fmt: skip
    try:
        value = np.asarray(given)
    except ValueError:
        raise ValueError(f"{what} must be an array, but its parts have different shapes, got {shown}") from None
    if value.dtype == object and isinstance(given, int):
        raise ValueError(f"{what} = {reprlib.repr(given)} is too large; give a smaller number")
    if not np.issubdtype(value.dtype, np.number):
        raise ValueError(
            f"{what} must be a number or an array of numbers, got {shown}; leave everything else out of params"
        )
    return value
