"""The exception for files."""

from __future__ import annotations

from . import _core


class Error(ValueError):
    """Something is wrong with a file, or with what was asked of it."""

    def __init__(
        self,
        message: str,
        file: str = "",
        offset: int | None = None,
        subject: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.file = file  #: its path
        self.offset = offset  #: bytes from its start, if one applies
        self.subject = subject  #: such as "tensor 'X'" or "key 'K'"
        self.reason = reason


_core.register_error(Error)
