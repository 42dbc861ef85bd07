"""Does this library reproduce published values? Each published value next to ours, with the difference.

python -m experiments.published
"""

from experiments.common.runner import run_of
from experiments.published.settings import PublishedSettings

run = run_of(__name__, PublishedSettings)

__all__ = ["PublishedSettings", "run"]
