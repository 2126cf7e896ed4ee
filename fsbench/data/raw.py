"""A data set as its files give it, before any split is cut or any label changed."""

from __future__ import annotations

from dataclasses import dataclass

from fsbench.data.splits import MemorySplit, Split


@dataclass(frozen=True)
class RawData:
    """Training and test split with true labels.

    Args:
        variant: one line on where the images come from and how they were divided, for the run's record.
        files: `files_digest` of a folder of images, for the run's record.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    variant: str
    files: str | None = None

    def problem(self) -> str | None:
        """A line about what is inconsistent in it, or None."""
        for name, split in (("training", self.train), ("test", self.test)):
            if len(split) == 0:
                return f"the {name} split is empty"
            if isinstance(split, MemorySplit) and len(split.images) != len(split.labels):
                return f"the {name} split has {len(split.images)} images but {len(split.labels)} labels"
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.class_names):
                return f"the {name} labels reach from {low} to {high}, allowed are 0 to {len(self.class_names) - 1}"
        return None
