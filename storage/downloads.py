"""Where the published ImageNet weights of a network are: on this machine already, or on Jittor's
server."""

import os
import urllib.request
from pathlib import Path

from storage.checkpoint import WeightsError
from system import processes
from system.files import replacing
from system.progress import Progress, say

JITTOR_URL = (
    "https://cg.cs.tsinghua.edu.cn/jittor/assets/build/checkpoints/"  # Jittor's own model zoo
)
# torchvision has several files of a network; those that the paper's networks start from, as
# Jittor's server has them.
FIRST_RELEASES = {
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "densenet121": "densenet121-a639ec97.pth",
}
# How torchvision's files of a network begin, where not with its name.
OTHER_NAMES = {
    "alexnet": "alexnet-owt",
    "inception_v3": "inception_v3_google",
    "mnasnet0_5": "mnasnet0.5_top1_67.823",
    "mnasnet1_0": "mnasnet1.0_top1_73.512",
    "shufflenet_v2_x0_5": "shufflenetv2_x0.5",
    "shufflenet_v2_x1_0": "shufflenetv2_x1",
    "shufflenet_v2_x1_5": "shufflenetv2_x1_5",
    "shufflenet_v2_x2_0": "shufflenetv2_x2_0",
}


def published_weights(name: str, folder: Path) -> Path:
    """The weights that Jittor's model zoo calls `name` ("vgg16.pkl"): in `folder`, where an
    earlier download has put them; in the caches of torch.hub and Hugging Face, which is said;
    downloaded. Raises WeightsError."""
    if (folder / name).exists():
        return folder / name
    found = cached(name.removesuffix(".pkl"))
    if found is None:
        return download(name, folder)
    if not processes.RANK:
        say(f"Pretrained weights: {found}, which is on this machine already")
    return found


def cached(network: str) -> Path | None:
    """torchvision's weights of a network, by its name there, in the cache of torch.hub or of
    Hugging Face."""
    checkpoints = _cache("TORCH_HOME", "torch") / "hub/checkpoints"
    if network in FIRST_RELEASES:
        found = [checkpoints / FIRST_RELEASES[network]]
    else:
        start = OTHER_NAMES.get(network, network)
        found = sorted(checkpoints.glob(f"{start}-[0-9a-f]*.pth"))
    if len(found) == 1 and found[0].is_file():
        return found[0]
    repository = _hugging_faces() / f"models--timm--{network}.tv_in1k"
    for name in ("model.safetensors", "pytorch_model.bin"):
        for file in repository.glob(f"snapshots/*/{name}"):
            if file.is_file():
                return file
    return None


def _hugging_faces() -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    return _cache("HF_HOME", "huggingface") / "hub"


def _cache(variable: str, name: str) -> Path:
    """The folder that a variable names, or the usual one."""
    if os.environ.get(variable):
        return Path(os.environ[variable]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / name


def download(name: str, folder: Path) -> Path:
    """A file of Jittor's model zoo, such as "vgg16.pkl", kept in `folder`. Raises WeightsError."""
    path = folder / name
    try:
        with (
            replacing(path) as temporary,
            open(temporary, "wb") as f,
            urllib.request.urlopen(JITTOR_URL + name, timeout=30) as response,
        ):
            total = int(response.headers.get("Content-Length") or 0)
            with Progress(
                None, f"Downloading {name}", total or None, unit="B", unit_scale=True
            ) as bar:
                while block := response.read(1 << 20):
                    f.write(block)
                    bar.update(len(block))
            if total and f.tell() != total:
                raise OSError(None, f"only {f.tell()} of {total} bytes came")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise WeightsError(
            f"{JITTOR_URL}{name}: the ImageNet weights cannot be downloaded ({reason}), and are "
            "neither in the cache of torch.hub nor in that of Hugging Face. Give a file with "
            "--pretrained: this one, or torchvision's "
            "or timm's of the same network."
        ) from error
    return path
