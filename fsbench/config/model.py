"""The options of each family of networks; `conf/model/` names the networks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from fsbench.config.component import Component
from fsbench.config.options import AbsolutePath

Width = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


def _of_form(step: int, offset: int) -> AfterValidator:
    """The depth is `step` n + `offset`."""

    def check(depth: int) -> int:
        if (depth - offset) % step:
            below = depth - (depth - offset) % step
            raise ValueError(f"the depth must be {step}n + {offset}, such as {below} or {below + step}")
        return depth

    return AfterValidator(check)


class ModelOptions(Component, group="model"):
    """A family of networks; `checkpoint` is a safetensors or torch file whose weights replace the initial ones.

    Attributes:
        smallest: least height and width of its images in pixels.
        batchnorm: whether an example's output in training depends on the others of its batch.
    """

    key: ClassVar = "family"
    smallest: ClassVar[int] = 1
    batchnorm: ClassVar[bool] = True
    family: str
    checkpoint: AbsolutePath | None = None

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(name=name, **kwargs)
        if name is not None and not cls.builder:
            cls.builder = f"fsbench.models.{name}:build"

    def __str__(self) -> str:
        """The family with what distinguishes the network in it, such as `wrn(depth=28, width=10, dropout=0.0)`."""
        details = self.model_dump(exclude={"family", "checkpoint", "pretrained"})
        listed = ", ".join(f"{key}={value}" for key, value in details.items())
        return f"{self.family}({listed})" if listed else self.family


class ResNetCifar(ModelOptions, name="resnet_cifar"):
    """He et al. 2016, section 4.2: depth 6n + 2, widths 16, 32, 64, parameter-free shortcuts."""

    depth: Annotated[int, Field(ge=8, le=10_000), _of_form(6, 2)]


class ResNet(ModelOptions, name="resnet"):
    """He et al. 2016, torchvision's; a 3x3 stem without max-pool where images are at most 64 px wide."""

    depth: Literal[18, 34, 50]


class WideResNet(ModelOptions, name="wrn"):
    """Zagoruyko & Komodakis 2016, CIFAR form WRN-depth-width with B(3,3) blocks, depth 6n + 4."""

    depth: Annotated[int, Field(ge=10, le=10_000), _of_form(6, 4)]
    width: int = Field(ge=1)
    dropout: Rate = 0.0


class WideResNetImageNet(ModelOptions, name="wrn_imagenet"):
    """Zagoruyko & Komodakis 2016, section 3.4: ResNet-18/34 with the widths of all blocks times `width`."""

    depth: Literal[18, 34]
    width: float = Field(gt=0)


class PyramidNet(ModelOptions, name="pyramidnet"):
    """Han et al. 2017, CIFAR form with bottlenecks: depth 9n + 2, widths grow linearly by `alpha` in all."""

    depth: Annotated[int, Field(ge=11, le=10_000), _of_form(9, 2)]
    alpha: int = Field(ge=0)


class DenseNet(ModelOptions, name="densenet"):
    """Huang et al. 2017, ImageNet form, torchvision's."""

    smallest: ClassVar = 29
    depth: Literal[121, 169, 201]


class DenseNetBC(ModelOptions, name="densenet_bc"):
    """Huang et al. 2017, CIFAR form with bottlenecks and compression 0.5: depth 6n + 4."""

    builder: ClassVar = "fsbench.models.densenet:build_bc"
    smallest: ClassVar = 4
    depth: Annotated[int, Field(ge=10, le=10_000), _of_form(6, 4)]
    growth: int = Field(ge=1)
    dropout: Rate = 0.0


class VggBN(ModelOptions, name="vgg_bn"):
    """Simonyan & Zisserman 2015 with BatchNorm, torchvision's; one linear classifier for images up to 64 px."""

    smallest: ClassVar = 32
    depth: Literal[11, 13, 16, 19]


class ResNextCifar(ModelOptions, name="resnext_cifar"):
    """Xie et al. 2017, section 5.3: depth 9n + 2, `cardinality` groups of `base_width` channels in the first stage."""

    depth: Annotated[int, Field(ge=11, le=10_000), _of_form(9, 2)]
    cardinality: int = Field(ge=1)
    base_width: int = Field(ge=1)


class Cnn(ModelOptions, name="cnn"):
    """jia2020, appendix E: 3x3 convolutions with max-pools after the second and the fourth."""

    smallest: ClassVar = 4
    batchnorm: ClassVar = False
    filters: list[Width] = Field(min_length=4)


class Mlp(ModelOptions, name="mlp"):
    """Fully connected with ReLU: `widths` are those of the hidden layers."""

    batchnorm: ClassVar = False
    widths: list[Width] = Field(default=[512, 512, 512])
    bias: bool = True


class LeNet(ModelOptions, name="lenet"):
    """LeCun et al. 1998 (LeNet-5) in today's usual form: ReLU and max-pooling."""

    smallest: ClassVar = 12
    batchnorm: ClassVar = False
    bias: bool = True


class LeNetIbayashi(ModelOptions, name="lenet_ibayashi"):
    """ibayashi2021, appendix D: three 5x5 convolutions of 6, 16, 120 channels, one hidden linear layer of 84."""

    builder: ClassVar = "fsbench.models.lenet:build_ibayashi"
    smallest: ClassVar = 28
    batchnorm: ClassVar = False
    bias: bool = True


class SmallCnn(ModelOptions, name="small_cnn"):
    """ibayashi2021, appendix F: two 5x5 convolutions of `width` channels, each max-pooled, one linear layer."""

    builder: ClassVar = "fsbench.models.lenet:build_small"
    smallest: ClassVar = 16
    batchnorm: ClassVar = False
    width: int = Field(default=20, ge=1)
    bias: bool = True


class Timm(ModelOptions, name="timm"):
    """Any network of timm by its name there, with or without its pretrained weights."""

    builder: ClassVar = "fsbench.models.from_timm:build"
    name: str | None = None
    pretrained: bool = False
