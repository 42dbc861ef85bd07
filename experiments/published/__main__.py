from experiments.common.runner import command
from experiments.published import PublishedSettings, run

command(PublishedSettings, run)
