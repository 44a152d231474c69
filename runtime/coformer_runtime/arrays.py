"""Names for numpy types that exist for the type checker only: numpy.typing is missing on Python 3.6."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = Any

__all__ = ["Array"]
