"""What lies where a data set's archives were looked for and are not: the next thing to do, in a
sentence."""
import re
from pathlib import Path, PurePosixPath

from images.archives import Archives
from images.datasets import PUBLISHED

OTHER_PACKERS = (".7z", ".rar", ".xz", ".bz2", ".zst")
SORTED = re.compile(r"(?:train|test|val|valid|validation)/[^/]+/[^/]+\.(?:jpe?g|png)", re.I)
SHOWN = 3  # names of what is there


def instead(archives: Archives, name: str, data_root: Path) -> str:
    """Of the data set `name`, whose archives are missing."""
    zipped = [member for names in archives.zipped.values() for member in names]
    files = archives.unpacked if archives.folder.is_dir() else [archives.folder.name]
    if not files:
        return "There is no file in it."
    packed = [file for file in files if file.endswith(OTHER_PACKERS)]
    if packed:
        return f"Unpack {PurePosixPath(packed[0]).name} first."
    found = next((match[0] for file in (*files, *zipped) if (match := SORTED.search(file))), None)
    if found:
        what = _sorted(name, data_root)
        return f"It holds images sorted into folders by class ({found}): {what}."
    shown = [PurePosixPath(file).name for file in files]
    more = f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else ""
    return f"What is there is not known: {', '.join(shown[:SHOWN])}{more}."


def _sorted(name: str, data_root: Path) -> str:
    about = PUBLISHED.get(name)
    if about is None:  # the archive gives several data sets
        return "the official arrays are needed"
    if about.boxes:
        return "such a copy has no boxes, so that it cannot be cropped"
    folder = about.folder_in(data_root)
    return (f"if they are split as published they can be used so, in {folder}/train and "
            f"{folder}/{about.test_folder}; test_basic.py counts them")
