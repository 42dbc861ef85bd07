"""What determines the numbers of a sweep besides its settings: the user's code, the versions, and how JAX draws."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import jax

from experiments.common.paths import user_path
from experiments.common.record import version

PACKAGES = ("rgrad", "jax", "jaxlib", "numpyro")


def origin_of(settings: Any) -> dict[str, str]:
    """Name to value, as text. The files of the user's problem and estimators are represented by their SHA-256."""
    found = {name: str(version(name)) for name in PACKAGES}
    found["threefry_partitionable"] = str(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]
    found["kind of the keys"] = str(jax.random.key_impl(jax.random.key(0)))
    for name in (settings.problem, *settings.estimators):
        place, colon, _ = name.rpartition(":")
        if colon:
            found[f"source of {place}"] = hashlib.sha256(_source(place).read_bytes()).hexdigest()
    return found


def _source(place: str) -> Path:
    """The file of a module that has been imported, given as FILE.py or by its dotted name."""
    if place.endswith(".py"):
        return Path(user_path(place))
    spec = importlib.util.find_spec(place)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What is not the same, in words, e.g. `jax (0.10.2, now 0.11.0)`. The digests of sources are not shown."""
    names = [name for name in old | new if old.get(name) != new.get(name)]
    shown = lambda name: name if name.startswith("source") else f"{name} ({old.get(name)}, now {new.get(name)})"
    return [shown(name) for name in names]
