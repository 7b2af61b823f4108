"""Progress of long work, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: True for a tqdm bar, or a function of bytes done and bytes in all that may return
#: False to stop.
Progress = bool | Callable[[int, int], object] | None


@contextmanager
def reporting(progress: Progress) -> Iterator[Callable[[int, int], object] | None]:
    """What to call with bytes done and bytes in all; None for nothing."""
    if not progress:
        yield None
        return
    if callable(progress):
        yield progress
        return
    from tqdm.auto import tqdm

    with tqdm(unit="B", unit_scale=True) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
        bar.update((bar.total or 0) - bar.n)
