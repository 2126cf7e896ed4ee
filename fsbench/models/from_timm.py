"""Networks of timm by their names there."""

from __future__ import annotations

from typing import Any

from torch import nn

from fsbench.config.model import Timm
from fsbench.errors import UsageError, did_you_mean, first_line
from fsbench.models.build import images_text


def build(options: Timm, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """`timm.create_model(options.name)` for these channels, this image size and these classes.

    A network with position embeddings is made for the data's size, which must be a multiple of its
    patches. Raises UsageError for a name that timm doesn't have, for data that the network can't take,
    and for pretrained weights that can't be had.
    """
    import timm  # imported late: timm takes seconds to load

    name = known_name(options.name)
    size: dict[str, Any] = {}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size and tuple(published.input_size[1:]) != shape[1:]:
        size["img_size"] = shape[1:]
    try:
        model = timm.create_model(name, pretrained=options.pretrained, in_chans=shape[0], num_classes=classes, **size)
    except Exception as error:  # whatever timm, the hub or the network throws
        if options.pretrained:
            raise UsageError(
                "model.pretrained",
                "true",
                f"the pretrained weights of {name} can't be had ({first_line(error)}); download them where "
                "there is a network and give the file as model.checkpoint=FILE with model.pretrained=false",
            ) from error
        raise UsageError("model", options, f"can't take {images_text(shape)} ({first_line(error)})") from error
    patches = getattr(model, "patch_embed", None)
    # timm's convolution over patches silently drops the rows and columns of an incomplete patch
    if isinstance(patches, timm.layers.PatchEmbed) and not patches.dynamic_img_pad:
        _whole_patches(options, shape, patches.patch_size)
    return model


def _whole_patches(options: Timm, shape: tuple[int, int, int], patch: tuple[int, int]) -> None:
    if shape[1] % patch[0] or shape[2] % patch[1]:
        allowed = f"height and width must be multiples of its {patch[0]} x {patch[1]} patches"
        raise UsageError("model", options, f"can't take {images_text(shape)}; {allowed}")


def known_name(name: str | None) -> str:
    """The name, if timm has this network, and this tag of its weights where one is named; else UsageError is raised."""
    import timm

    if name is None:
        raise UsageError("model.name", "null", "say which of timm's networks: model=timm model.name=resnet18")
    # names such as local-dir:PATH and hf-hub:REPO would take the network's definition from elsewhere
    architecture, _, tag = name.partition(".")
    if ":" in name or not timm.is_model(architecture):
        near = did_you_mean(architecture, timm.list_models())
        raise UsageError("model.name", name, f"timm has no network of this name{near}")
    if tag and name not in timm.list_models(f"{architecture}.*", pretrained=True):
        tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
        allowed = f"it has {', '.join(tags)}" if tags else "it has none"
        raise UsageError("model.name", name, f"timm has no weights '{tag}' for {architecture}; {allowed}")
    return name
