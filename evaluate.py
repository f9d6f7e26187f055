"""Check a finished run: every task's accuracy from the checkpoint alone, plus the data.

    python evaluate.py --output-dir checkpoints/packnet [--task cubs]
"""
import argparse
import sys
from pathlib import Path

from config import CHECKPOINT
from main import complain


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--output-dir", default="checkpoints/packnet", help="folder of the run (default: %(default)s)")
    parser.add_argument("--task", help="only this task (default: all)")
    parser.add_argument("--data-root", help="folder of the data sets (default: the run's)")
    parser.add_argument("--batch-size", type=int, help="images per step (default: the run's)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args(arguments)

    import toolchain
    try:
        toolchain.start(options.device)
    except toolchain.ToolchainError as error:
        return complain(error)
    from dataset import DataError, create_dataloader
    from training import Score, load_packed
    from weights import WeightsError
    try:
        packnet, metadata = load_packed(Path(options.output_dir) / CHECKPOINT)
        tasks = {task["name"]: task for task in metadata["tasks"]}
        if options.task is not None and options.task not in tasks:
            raise WeightsError(f"--task {options.task}: the checkpoint holds {', '.join(tasks)}")
        config = metadata["config"]
        print(f"{'task':14} {'top-1 %':>8} {'top-5 %':>8} {'recorded':>9}")
        for name in [options.task] if options.task else tasks:
            if tasks[name]["top1"] is None and options.task is None:
                print(f"{name:14} {'-':>8} {'-':>8} {'-':>9}  (no data in the run)")
                continue
            loader, _ = create_dataloader(name, options.data_root or config["data_root"], "test",
                                          options.batch_size or config["batch_size"],
                                          image_size=metadata["image_size"], cache_dir=config["cache_dir"])
            if tasks[name]["classes"] not in (None, loader.classes):
                raise DataError(f"{name}: the classes of the data are not those of the checkpoint "
                                f"({len(loader.classes)} against {len(tasks[name]['classes'])})")
            score = Score.of(*packnet.predict(name, loader))
            recorded = tasks[name]["top1"]
            print(f"{name:14} {score.top1:8.2f} {score.top5:8.2f} "
                  + (f"{recorded:9.2f}" if recorded is not None else f"{'-':>9}"))
    except (DataError, WeightsError) as error:
        return complain(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
