"""``make bench``: measure every server, in rounds; the results go to ``bench/results``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.measure import FULL, QUICK, Bench
from bench.report import recall, write_report
from bench.scenarios import SCENARIOS

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Measure, print the results, and write them."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...")
    parser.add_argument("--quick", action="store_true", help="four minutes, and less exact")
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=SCENARIOS,
        help=f"{', '.join(SCENARIOS)}; results of the others stay as they are",
    )
    parser.add_argument("--before", metavar="COMMIT", default="", help="measured beside this one")
    parser.add_argument("--into", type=Path, default=RESULTS, help="a directory for the results")
    arguments = parser.parse_args()
    bench = Bench(QUICK if arguments.quick else FULL, arguments.before)
    if arguments.only:
        recall(bench, arguments.into)
    try:
        for name in arguments.only or SCENARIOS:
            print(f"-- {name}", file=sys.stderr, flush=True)
            SCENARIOS[name](bench)
    finally:
        bench.close()
    print(write_report(bench, arguments.into))
    return 0


if __name__ == "__main__":
    sys.exit(main())
