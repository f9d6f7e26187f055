"""A page of everything that was run, beside the published figures.

    python report.py                     # from all runs below checkpoints/
    python report.py --runs D --out D    # from and to other folders
    python report.py --measure           # time a few steps of each network first

Writes report.md, report.html, which needs no other file, and report.csv, which has a row for each
run, task and method; by default into checkpoints/. The page begins with one table: every
experiment, published, ours, difference, seeds, hours and hardware; one that was not run is shown
with its command, and with the hours that --measure lets us estimate. Then come accuracies beside
the published figures, baselines, curves, capacity, storage, and how each run was made.
"""
from pathlib import Path

import toolchain
from reporting.page import check_free, write_page
from settings.config import ConfigError
from settings.effort import save_rates
from system import processes
from system.errors import CommandLine, run_cli


@run_cli
def main(arguments: list[str] | None = None) -> int:
    parser = CommandLine(__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", default="checkpoints",
        help="folder with the runs (default: %(default)s)")
    parser.add_argument(
        "--out",
        help="folder for report.md, report.html and report.csv (default: the same)")
    parser.add_argument(
        "--measure", action="store_true",
        help="time a few steps of each network of the experiments on this machine (minutes), from "
             "which the hours of what was not run are estimated")
    parser.add_argument(
        "--device", default="auto", choices=toolchain.DEVICES,
        help="of --measure (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not Path(options.runs).is_dir():
        raise ConfigError(f"--runs {options.runs}: no such folder")
    out = Path(options.out or options.runs)
    check_free(out)
    if options.measure:
        toolchain.start(options.device)
        from runs.rate import measured
        print(f"Written: {save_rates(measured())}")
    for path in write_page(Path(options.runs), out):
        print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    processes.leave(main())
