"""Does this library give what others have published? Each published value beside ours, and how far they are apart.

python -m experiments.published
"""

from experiments.common.runner import run_of
from experiments.published.settings import PublishedSettings

run = run_of(__name__, PublishedSettings)

__all__ = ["PublishedSettings", "run"]
