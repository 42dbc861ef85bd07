from experiments.common.runner import command
from experiments.svi import SviSettings, run

command(SviSettings, run)
