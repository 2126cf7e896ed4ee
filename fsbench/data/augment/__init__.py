"""Augmentation in two paths with one distribution: batches on the device, and image files one by one."""

from fsbench.data.augment.batch import batch_augment, normalize
from fsbench.data.augment.image import eval_transform, image_transform

__all__ = ["batch_augment", "eval_transform", "image_transform", "normalize"]
