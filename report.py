"""A page of everything that was run, beside the published figures.

    python report.py                     # checkpoints/report.md, report.html and report.csv, from all runs below checkpoints/
    python report.py --runs D --out D    # from and to other folders

The page holds accuracies with the paper's and the seeds' figures, baselines, curves, capacity, storage, and how each run was
made. An experiment that was not run shows as missing, with its command. The HTML needs no other file. The CSV has a row for each
run, task and method.
"""
import argparse
import sys
from pathlib import Path

from reporting.page import write_page
from settings.command_line import complain


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--runs", default="checkpoints", help="folder with the runs (default: %(default)s)")
    parser.add_argument("--out", help="folder for report.md, report.html and report.csv (default: the same)")
    options = parser.parse_args(arguments)
    if not Path(options.runs).is_dir():
        return complain(f"--runs {options.runs}: no such folder")
    for path in write_page(Path(options.runs), Path(options.out or options.runs)):
        print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
