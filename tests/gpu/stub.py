"""A part without JAX, to test the processes quickly."""

import time

from tests.gpu.context import Context


def stub(ctx: Context) -> None:
    ctx.row("first", value=1)
    time.sleep(0.2)
    ctx.check("right", True)
