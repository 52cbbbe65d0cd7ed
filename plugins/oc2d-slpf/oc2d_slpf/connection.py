"""The netlink socket of a back end and the watch beside it: the same for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from oc2d_slpf.backend import BackendError
from oc2d_slpf.netlink import Netlink
from oc2d_slpf.watch import Watch

__all__ = ["Connection"]


class Connection:
    """Closed at first. One thread only."""

    def __init__(self) -> None:
        self._netlink: Netlink | None = None
        self._watch: Watch | None = None
        self._changed: Callable[[], None] = lambda: None

    @property
    def netlink(self) -> Netlink:
        """The socket; raises `BackendError` when it is not open."""
        if self._netlink is None:
            raise BackendError("the netlink socket is not open")
        return self._netlink

    def open(self) -> None:
        """Open the socket, if it is not open; raises OSError."""
        self._netlink = self._netlink or Netlink()

    def close(self) -> None:
        """Close the watch and the socket; harmless when repeated."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def watch(
        self, make: Callable[[int, Callable[[], None]], Watch], changed: Callable[[], None]
    ) -> None:
        """Have `changed` called by what `make` makes of it and of the port that is ours."""
        if self._watch is None:
            self._changed = changed
            self._watch = make(self.netlink.port, changed)

    @contextlib.contextmanager
    def unwatched(self, ours: Callable[[], int]) -> Iterator[None]:
        """Make transactions that nobody is told of; `ours` counts those that we ever made.

        With a listener the kernel writes down each element: 2 s for 100 000, not 0.3. Whether
        others changed something meanwhile, the generation tells. Raises `BackendError` when it
        cannot, and then nothing was done.
        """
        if self._watch is None:
            yield
            return
        try:
            before = self.netlink.generation() - ours()
            self._watch.listen(on=False)
        except OSError as error:
            raise BackendError(f"netlink: {error}") from error
        try:
            yield
        finally:
            try:
                self._watch.listen(on=True)
                unseen = self.netlink.generation() - ours() != before
            except OSError:  # not known; what was done inside is done all the same
                unseen = True
            if unseen:
                self._changed()
