"""Columns on disk: .npy files, of which windows of rows are read where they lie."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

REMEDY = "collect it again with: mujepa collect TASK --out FOLDER"


class Column:
    """The rows of a .npy file; no more than is asked for is ever in memory.

    Args:
        path: the file, as `numpy.save` writes it.

    Attributes:
        shape: of all rows, (F, ...).
        dtype: of their numbers.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.shape, self.dtype, self._begin = read_header(file)
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, first: int, rows: NDArray[Any]) -> None:
        """Fill an array (T, ...) with the rows from `first` on.

        Raises:
            UserError: the file ends before.
        """
        if not read_rows(self._file, self._begin, first, rows):
            raise UserError(f"{self._path} was cut short; {REMEDY}")


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape and type of a .npy file, and where its rows begin [bytes]."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype, file.tell()


def read_rows(file: int, begin: int, first: int, rows: NDArray[Any]) -> bool:
    """Fill an array (T, ...) with rows of an open file; return whether there were as many."""
    row = rows.nbytes // len(rows)
    return os.preadv(file, [rows.data], begin + first * row) == rows.nbytes
