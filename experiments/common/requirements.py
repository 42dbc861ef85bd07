"""What the experiments need installed. If a package is missing, they say so in one line.

Nothing here imports those packages.
"""

import importlib.util
import sys

PACKAGES = {
    "jax": "jax", "lazy_loader": "lazy-loader", "numpy": "numpy", "numpyro": "numpyro", "optax": "optax", "scipy": "scipy",
    "matplotlib": "matplotlib", "pydantic": "pydantic", "rich": "rich", "sklearn": "scikit-learn", "tyro": "tyro",
}  # fmt: skip
"""The dependencies of rgrad and of its extra `experiments`: the name to import, and the name to install."""


def missing_packages() -> list[str]:
    """The packages that are not installed, by the names to install."""
    return [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]


def require_packages() -> None:
    """Ends the process with one line and status 2 if a package is not installed."""
    if names := missing_packages():
        verb = "is" if len(names) == 1 else "are"
        print(f"error: {', '.join(names)} {verb} not installed; pip install -e '.[experiments]'", file=sys.stderr)
        sys.exit(2)
