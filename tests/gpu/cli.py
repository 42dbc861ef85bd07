"""The command line of `.ci/gpu`."""

import argparse
import json
import math
import time

from tests.gpu.supervision import supervise
from tests.gpu.table import PARTS, chosen
from tests.gpu.worker import Orders, work

FAULTS = ("raise", "crash", "hang", "kill")


def main(about: str | None, argv: list[str] | None = None) -> int:
    """Parse the arguments and run. Return 1 if a part failed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="results/gpu", help="folder for gpu.json and logs; default: results/gpu")
    parser.add_argument("--minutes", type=float, default=10.0, help="when to stop, counted from the start; default: 10")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"parts in this order, or letters: {','.join(PARTS)}")
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU, with tiny sizes")
    parser.add_argument("--fault", action="append", default=[], metavar="PART=HOW",
                        help="for tests: let a part raise, crash, hang or be killed, e.g. b2=crash")  # fmt: skip
    parser.add_argument("--limit", type=float, default=math.inf, help="for tests: the most seconds for one part")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(Orders(**json.loads(args.worker)))
    try:
        parts = chosen(args.parts)
    except ValueError as error:
        parser.error(str(error))
    faults = dict(fault.partition("=")[::2] for fault in args.fault)
    for name, how in faults.items():
        if name not in parts or how not in FAULTS:
            parser.error(f"--fault {name}={how}: give a part of the run, and one of {', '.join(FAULTS)}")
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: give a positive number")
    deadline = time.time() + 60 * args.minutes
    return supervise(Orders(args.out, parts, deadline, args.rehearse, faults, args.limit), args.minutes)
