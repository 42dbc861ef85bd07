"""Is this gradient right, and if not, where is it cut?

python -m experiments.audit --loss mine.py:loss --params mine.py:params
"""

from experiments.audit.settings import AuditSettings
from experiments.common.runner import run_of

run = run_of(__name__, AuditSettings)

__all__ = ["AuditSettings", "run"]
