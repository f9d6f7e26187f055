"""The types of numbers in files of weights: NumPy's, with the names that the formats give them."""

import numpy as np

# A number of 16 bits, the upper half of a float32, which NumPy does not know: so that it is not
# taken for an integer.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
# (NumPy's, PyTorch's, safetensors'); None where PyTorch's files have no name for it.
TYPES = [
    (np.dtype(numpys), torchs, safetensors)
    for numpys, torchs, safetensors in (
        ("<f4", "FloatStorage", "F32"),
        ("<f8", "DoubleStorage", "F64"),
        ("<f2", "HalfStorage", "F16"),
        (BFLOAT16, "BFloat16Storage", "BF16"),
        ("<i8", "LongStorage", "I64"),
        ("<i4", "IntStorage", "I32"),
        ("<i2", "ShortStorage", "I16"),
        ("|i1", "CharStorage", "I8"),
        ("|u1", "ByteStorage", "U8"),
        ("<u2", None, "U16"),
        ("<u4", None, "U32"),
        ("<u8", None, "U64"),
        ("|b1", "BoolStorage", "BOOL"),
    )
]
OF_TORCH = {torchs: dtype for dtype, torchs, _ in TYPES if torchs}
OF_SAFETENSORS = {safetensors: dtype for dtype, _, safetensors in TYPES}
TORCHS_NAMES = {dtype: torchs for dtype, torchs, _ in TYPES if torchs}
