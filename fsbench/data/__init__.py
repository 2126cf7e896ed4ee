"""Data sets: images, labels, splits and batches.

data = load_data(options.dataset, data_dir); batches = train_batches(data, options.augment, ...).
"""

from fsbench.data.batches import EvalBatches, TrainBatches, eval_batches, train_batches
from fsbench.data.load import Data, load_data
from fsbench.data.share import Share
from fsbench.data.splits import MemorySplit, StreamingSplit

__all__ = [
    "Data",
    "EvalBatches",
    "MemorySplit",
    "Share",
    "StreamingSplit",
    "TrainBatches",
    "eval_batches",
    "load_data",
    "train_batches",
]
