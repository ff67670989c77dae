"""What all handles have in common."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # for type checkers, which have it; typing.Self came with Python 3.11


class Handle:
    """Something that undoes what it did when it is closed."""

    __slots__ = ("__weakref__",)

    def close(self) -> None:
        """End it; doing so again does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Give the handle itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
