from experiments.audit import AuditSettings, run
from experiments.common.runner import command

command(AuditSettings, run)
