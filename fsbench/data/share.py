"""Which rows of a mini-batch each of several devices has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Device `rank` of `count` has rows rank, rank + count, ... of a mini-batch.

    Every count-th row instead of a contiguous part, so that each slice of the mini-batch (a group of m-sharpness, a
    sub-batch of the regulariser) is spread evenly too. Of a mini-batch of fewer than 2 rows a device the last devices
    have none, and the others at least two, because BatchNorm has no variance for a single one.
    """

    rank: int = 0
    count: int = 1

    def of(self, size: int) -> range:
        """The device's rows of a mini-batch of `size`."""
        return self.within(range(size), size)

    def within(self, rows: range, size: int) -> range:
        """The device's own among these rows of a mini-batch of `size`."""
        sharing = self._sharing(size)
        if sharing == 1:
            return rows if self.rank == 0 else rows[:0]
        if self.rank >= sharing:
            return rows[:0]
        if rows.step == 1:
            return range(rows.start + (self.rank - rows.start) % sharing, rows.stop, sharing)
        own = [row for row in rows if row % sharing == self.rank]
        step = own[1] - own[0] if len(own) > 1 else 1
        return range(own[0], own[-1] + 1, step) if own else rows[:0]

    def held(self, rows: range, size: int) -> slice:
        """The slice, among the rows that the device has, of these rows, which are all its own."""
        sharing = self._sharing(size)
        start, step = rows.start // sharing, max(1, rows.step // sharing)
        return slice(start, start + len(rows) * step, step)

    def _sharing(self, size: int) -> int:
        """The number of devices that have rows."""
        return self.count if size >= 2 * self.count else max(1, size // 2)


ALONE = Share()
