"""The options of each family of networks; `conf/model/` names the networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fsbench.config.options import AbsolutePath, Options

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class ModelBase(Options):
    """What every family has: `checkpoint`, a safetensors or torch file whose weights replace the initial ones."""

    checkpoint: AbsolutePath | None = None


class ResNetCifar(ModelBase):
    """He et al. 2016, section 4.2: depth 6n + 2, widths 16, 32, 64, parameter-free shortcuts."""

    family: Literal["resnet_cifar"]
    depth: int = Field(ge=8, le=10_000)

    @field_validator("depth")
    @classmethod
    def _form(cls, depth: int) -> int:
        return _of_form(depth, 6, 2)


class ResNet(ModelBase):
    """He et al. 2016, torchvision's; a 3x3 stem without max-pool where images are at most 64 px wide."""

    family: Literal["resnet"]
    depth: Literal[18, 34, 50]


class WideResNet(ModelBase):
    """Zagoruyko & Komodakis 2016, CIFAR form WRN-depth-width with B(3,3) blocks, depth 6n + 4."""

    family: Literal["wrn"]
    depth: int = Field(ge=10, le=10_000)
    width: int = Field(ge=1)
    dropout: Rate = 0.0

    @field_validator("depth")
    @classmethod
    def _form(cls, depth: int) -> int:
        return _of_form(depth, 6, 4)


class WideResNetImageNet(ModelBase):
    """Zagoruyko & Komodakis 2016, section 3.4: ResNet-18/34 with the widths of all blocks times `width`."""

    family: Literal["wrn_imagenet"]
    depth: Literal[18, 34]
    width: float = Field(gt=0)


class PyramidNet(ModelBase):
    """Han et al. 2017, CIFAR form with bottlenecks: depth 9n + 2, widths grow linearly by `alpha` in all."""

    family: Literal["pyramidnet"]
    depth: int = Field(ge=11, le=10_000)
    alpha: int = Field(ge=0)

    @field_validator("depth")
    @classmethod
    def _form(cls, depth: int) -> int:
        return _of_form(depth, 9, 2)


class DenseNet(ModelBase):
    """Huang et al. 2017, ImageNet form, torchvision's."""

    family: Literal["densenet"]
    depth: Literal[121, 169, 201]


class DenseNetBC(ModelBase):
    """Huang et al. 2017, CIFAR form with bottlenecks and compression 0.5: depth 6n + 4."""

    family: Literal["densenet_bc"]
    depth: int = Field(ge=10, le=10_000)
    growth: int = Field(ge=1)
    dropout: Rate = 0.0

    @field_validator("depth")
    @classmethod
    def _form(cls, depth: int) -> int:
        return _of_form(depth, 6, 4)


class VggBN(ModelBase):
    """Simonyan & Zisserman 2015 with BatchNorm, torchvision's; one linear classifier for images up to 64 px."""

    family: Literal["vgg_bn"]
    depth: Literal[11, 13, 16, 19]


class ResNextCifar(ModelBase):
    """Xie et al. 2017, section 5.3: depth 9n + 2, `cardinality` groups of `base_width` channels in the first stage."""

    family: Literal["resnext_cifar"]
    depth: int = Field(ge=11, le=10_000)
    cardinality: int = Field(ge=1)
    base_width: int = Field(ge=1)

    @field_validator("depth")
    @classmethod
    def _form(cls, depth: int) -> int:
        return _of_form(depth, 9, 2)


class Cnn(ModelBase):
    """jia2020, appendix E: 3x3 convolutions with max-pools after the second and the fourth."""

    family: Literal["cnn"]
    filters: list[Width] = Field(min_length=4)


class Mlp(ModelBase):
    """Fully connected with ReLU: `widths` are those of the hidden layers."""

    family: Literal["mlp"]
    widths: list[Width] = Field(default=[512, 512, 512])
    bias: bool = True


class LeNet(ModelBase):
    """LeCun et al. 1998 (LeNet-5) in today's usual form: ReLU and max-pooling."""

    family: Literal["lenet"]
    bias: bool = True


class LeNetIbayashi(ModelBase):
    """ibayashi2021, appendix D: three 5x5 convolutions of 6, 16, 120 channels, one hidden linear layer of 84."""

    family: Literal["lenet_ibayashi"]
    bias: bool = True


class SmallCnn(ModelBase):
    """ibayashi2021, appendix F: two 5x5 convolutions of `width` channels, each max-pooled, one linear layer."""

    family: Literal["small_cnn"]
    width: int = Field(default=20, ge=1)
    bias: bool = True


class Timm(ModelBase):
    """Any network of timm by its name there, with or without its pretrained weights."""

    family: Literal["timm"]
    name: str | None = None
    pretrained: bool = False


ModelOptions = Annotated[
    ResNetCifar
    | ResNet
    | WideResNet
    | WideResNetImageNet
    | PyramidNet
    | DenseNet
    | DenseNetBC
    | VggBN
    | ResNextCifar
    | Cnn
    | Mlp
    | LeNet
    | LeNetIbayashi
    | SmallCnn
    | Timm,
    Field(discriminator="family"),
]


def _of_form(depth: int, step: int, offset: int) -> int:
    if (depth - offset) % step:
        below = depth - (depth - offset) % step
        raise ValueError(f"the depth must be {step}n + {offset}, such as {below} or {below + step}")
    return depth
