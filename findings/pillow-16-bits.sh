#!/usr/bin/env bash
# Pillow 13.0.0: gray pictures of 16 bits turn white in RGB, coloured ones do not.
#
# A PNG of 16 bits a channel, `convert("RGB")`: one expects one rule for both kinds. Of colour (and
# of gray with alpha) the high byte is taken: 1000 of 65535 is 3. Of gray alone the value is cut at
# 255: 1000 is 255, as is all but the darkest 1/256 of the range. No warning; TIFF is as PNG.
source "$(dirname "$0")/common"
install pillow==13.0.0 numpy==2.4.6
python - <<'END'
import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image

VALUES = (100, 1000, 40000, 65535)


def png(kind, channels):
    """One row of VALUES, the same in each channel."""
    row = b"".join(struct.pack(">H", value) * channels for value in VALUES)
    head = struct.pack(">IIBBBBB", len(VALUES), 1, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks)


seen = {}
for name, kind, channels in (("gray", 0, 1), ("RGB", 2, 3), ("gray with alpha", 4, 2)):
    image = Image.open(io.BytesIO(png(kind, channels)))
    seen[name] = np.asarray(image.convert("RGB"))[0, :, 0].tolist()
    print("seen:", name, image.mode, VALUES, "->", seen[name])
sys.exit(seen != {"gray": [100, 255, 255, 255], "RGB": [0, 3, 156, 255],
                  "gray with alpha": [0, 3, 156, 255]})
END
