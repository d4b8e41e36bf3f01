"""What one input or output of a TFLite file expects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape, type and quantization of an input or output of a TFLite file.

    Args:
        name: Name in the file's signature, for example `"image"`.
        shape: Shape including the batch; -1 where the file leaves a dimension open.
        dtype: NumPy name of the type, for example `"int8"`.
        scale: Step between two neighbouring codes, or `None` when the tensor is not quantized.
        zero_point: Code that stands for 0.0, or `None` when the tensor is not quantized.

    Example:

    ```python
    spec = TensorSpec("image", (1, 8, 8, 1), "int8", scale=1 / 255, zero_point=-128)
    spec.quantize(np.array([0.0, 1.0]))  # array([-128, 127], dtype=int8)
    ```
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def quantized(self) -> bool:
        """Whether the tensor holds integer codes that stand for real numbers."""
        return self.scale is not None

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Turn real numbers of any shape into codes (or cast, when the tensor is not quantized).

        Values outside the range of the codes saturate; ties round to even, as in LiteRT.
        """
        if self.scale is None or self.zero_point is None:
            return np.asarray(values).astype(self.dtype)
        limits = np.iinfo(self.dtype)
        # In place: a test set may hold gigabytes.
        codes = np.divide(values, np.float32(self.scale), dtype=np.float32)
        np.rint(codes, out=codes)
        codes += self.zero_point
        return np.clip(codes, limits.min, limits.max, out=codes).astype(self.dtype)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """Turn codes of any shape into float32; integers without a scale stay what they are."""
        if self.scale is None or self.zero_point is None:
            if np.issubdtype(codes.dtype, np.floating):
                return codes.astype(np.float32)
            return codes
        return (codes.astype(np.float32) - self.zero_point) * np.float32(self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TensorSpec:
        """Rebuild what `to_dict` wrote."""
        return cls(**{**fields, "shape": tuple(fields["shape"])})

    def __str__(self) -> str:
        shape = "x".join("?" if size < 0 else str(size) for size in self.shape) or "scalar"
        grid = f", scale {self.scale:.6g}, zero point {self.zero_point}" if self.quantized else ""
        return f"{self.name}: {self.dtype} {shape}{grid}"
