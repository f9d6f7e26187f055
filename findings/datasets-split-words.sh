#!/usr/bin/env bash
# datasets 5.2.0: a class that is called train takes its test images into the training split.
#
# `load_dataset("imagefolder", data_dir=...)` of {train,test}/<class>/: one expects a split for each
# of the two folders, whatever the classes are called. Any folder of a path counts whose name is a
# word for a split: the images of test/train/ are in both splits, without a message. CIFAR-100's
# vehicles are bicycle, bus, motorcycle, pickup_truck and train. Of class folders without splits
# only the images of train are left, without labels; of two folders of pets one file that is called
# "test 1.png".
source "$(dirname "$0")/common"
install datasets==5.2.0 pillow==13.0.0
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1
python - 2> datasets.log <<'END'
import os
import sys

from datasets import load_dataset
from PIL import Image


def draw(root, folders, count=3):
    for folder in folders:
        os.makedirs(f"{root}/{folder}", exist_ok=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(f"{root}/{folder}/{number}.png")


def loaded(root):
    splits = load_dataset("imagefolder", data_dir=root)
    return {name: (len(split), getattr(split.features.get("label"), "names", None))
            for name, split in splits.items()}


classes = ("bicycle", "bus", "train")
draw("split", [f"{split}/{name}" for split in ("train", "test") for name in classes])
draw("flat", classes)
draw("pets", ("cat", "dog"))
Image.new("RGB", (4, 4)).save("pets/cat/test 1.png")
seen = [loaded(root) for root in ("split", "flat", "pets")]
for what, splits in zip(("9 images to train, 9 to test", "9 of 3 classes", "7 of 2"), seen):
    print(f"seen: of {what}:", splits)
names = list(classes)
sys.exit(seen != [dict(train=(12, names), test=(9, names)), dict(train=(3, None)),
                  dict(test=(1, None))])
END
