"""Computing measures of one source, each recorded as soon as it is there."""

from __future__ import annotations

import math
import os
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from typing import Any

import torch
from torch import nn

from fsbench import __version__, sharpness
from fsbench.config.loss import CrossEntropyOptions
from fsbench.config.sharpness import SharpnessConfig
from fsbench.distributed.devices import Devices, build_device
from fsbench.errors import UsageError, check_signals, first_line
from fsbench.losses import plain_loss
from fsbench.measuring.images import Images
from fsbench.measuring.measures import Failed, Measure
from fsbench.measuring.network import build_network
from fsbench.measuring.record import Entry, Record, settings_of
from fsbench.measuring.source import Source
from fsbench.runs.atomic import finite
from fsbench.runs.provenance import cpu_name, git_commit
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.risk import GIB, Risk
from fsbench.training.precision import arithmetic

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def measure_on(
    devices: Devices, source: Source, config: SharpnessConfig, measures: list[Measure], record: Record
) -> Iterator[dict[str, Entry] | Failed]:
    """Compute and record the measures in turn; yields the entries of each, by column.

    A measure that is refused leaves an entry that says why. One that fails leaves none, and the others go on.
    Several devices share the images; the first records, and takes alone the measures that can't be shared. There an
    exception on one ends all.

    Raises:
        UsageError: the images or the weights can't be used, there is no such device, or a measure can't take the
            value of an option.
    """
    device = devices.device
    dtype = _DTYPES[config.dtype]
    images = devices.node_by_node(
        lambda: Images(source, config.split, config.samples, config.seed, device, dtype, devices.share)
    )
    model, notes = devices.node_by_node(lambda: build_network(source, images.data, device, dtype))
    loss = loss_of(source, config)

    @cache
    def risk(whole: bool, alone: bool) -> Risk:
        """Over the images drawn or the whole split; alone: not shared with the other devices."""
        of = images.unshared if alone else images
        return Risk(
            model,
            loss,
            of.whole if whole else of.drawn,
            memory=int(config.memory * GIB),
            progress=config.progress and devices.first,
            examples=images.available if whole else images.used,
            processes=None if alone else devices,
        )

    if devices.first:
        source.prepare()
    provenance = {
        "fsbench": __version__,
        "git_commit": git_commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    for number, one in enumerate(measures):
        check_signals()
        alone = devices.count == 1 or one.in_one_place(config)
        if alone and not devices.first:
            continue
        used = images.available if one.whole else images.used
        shared = {
            "settings": settings_of(one, config, used, images.available),
            "images": {"used": used, "of": images.available, "split": config.split},
            "provenance": provenance,
        }
        begun = time.perf_counter()
        try:
            with arithmetic("fp32", device, repeatable=True):
                whole = one.whole or images.used == images.available
                found = _computed(one, config, risk(whole, one.in_one_place(config)), images)
        except Refused as refusal:
            if not alone and not devices.unanimous(f"refused {number}"):
                raise
            found = {column: {"refused": str(refusal)} for column in one.columns_of(config)}
        except UsageError:
            raise
        except Exception as failure:
            if isinstance(failure, ValueError) and (wrong := _wrong_option(one, config, failure)) is not None:
                raise wrong from None
            if not alone:
                raise
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                traceback.print_exc()
            yield Failed(one, f"{type(failure).__name__}: {first_line(failure)}")
            continue
        seconds = time.perf_counter() - begun
        entries = {column: {**entry, **shared, "seconds": seconds} for column, entry in found.items()}
        for entry in entries.values():
            entry["notes"] = [*notes, *entry.get("notes", ())]
        # As it is read back later.
        entries = finite(entries)
        if devices.first:
            record.add(entries)
        yield entries


def _computed(one: Measure, config: SharpnessConfig, risk: Risk, images: Images) -> dict[str, Entry]:
    arguments = one.arguments(config)
    if one.test_images:
        arguments["evaluate_on"] = images.test
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        function = getattr(sharpness, one.function) if isinstance(one.function, str) else one.function
        result = function(risk, **arguments)
    # What is said of the value belongs beside the value, where the next reader finds it too.
    said = [str(warning.message) for warning in heard if issubclass(warning.category, UserWarning)]
    entries = _RESULTS.get(one.name, _single)(one, result, images)
    entries = {column: entries[column] for column in one.columns_of(config)}
    for entry in entries.values():
        entry["notes"] = list(dict.fromkeys([*entry.get("notes", ()), *said]))
    return entries


def _wrong_option(one: Measure, config: SharpnessConfig, failure: ValueError) -> UsageError | None:
    """`k=100: must be 1 to 50`, said of the key that it came from."""
    found = re.match(r"(\w+)=.*?: (.*)", first_line(failure))
    if found is None or not (key := one.options(config).get(found[1])):
        return None
    return UsageError(key, getattr(config, key), found[2])


def _single(one: Measure, result: Estimate | float, images: Images) -> dict[str, Entry]:
    if not isinstance(result, Estimate):
        result = Estimate(float(result), 0.0, images.available if one.whole else images.used, True)
    return {one.column: _entry(result)}


def _largest_first(one: Measure, result: list[Estimate], images: Images) -> dict[str, Entry]:
    numbered = {f"hessian_eigenvalue_{i}": _entry(estimate) for i, estimate in enumerate(result, 1)}
    return {one.column: _entry(result[0]), **numbered}


def _along_the_gradient(one: Measure, result: list[Any], images: Images) -> dict[str, Entry]:
    examples = len(images.data.test)
    return {
        f"{one.column}_{what}_{row.alpha:g}": {
            **_entry(Estimate(float(getattr(row, what)), 0.0, examples, True)),
            "evaluated_on": f"{examples} test images",
        }
        for row in result
        for what in ("accuracy", "loss")
    }


_RESULTS: dict[str, Callable[[Measure, Any, Images], dict[str, Entry]]] = {
    "adversarial": _along_the_gradient,
    "eigenvalues": _largest_first,
}


def _entry(estimate: Estimate) -> Entry:
    entry = asdict(estimate)
    entry["notes"] = list(estimate.notes)
    if not math.isfinite(estimate.value):
        entry["not_finite"] = str(float(estimate.value))
        entry["notes"].append(f"the value is {estimate.value}, which JSON can't hold")
    return entry


def loss_of(source: Source, config: SharpnessConfig) -> nn.Module:
    """The loss that the network was trained with; with label smoothing only where that is asked for.

    Raises:
        UsageError: label smoothing of a loss that has none.
    """
    if isinstance(source.loss, CrossEntropyOptions):
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing or 0.0)
    if config.label_smoothing:
        raise UsageError("label_smoothing", config.label_smoothing, f"loss={source.loss.name} has none")
    return plain_loss(source.loss)


def device_named(name: str) -> torch.device:
    """The device of `device=`; raises UsageError where it is not there."""
    try:
        return build_device(name)
    except UsageError as failure:
        raise UsageError("device", failure.value, failure.problem) from None
