"""A score is kept by all that decides it: settings, files, code. What does not decide it does not count."""

import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.scorers.aesthetic import aesthetic_head
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.reading import read_rows

READER = """
from dataclasses import dataclass
import torch
from mapolab.evaluation.scorers.scorer import Scorer

@dataclass(frozen=True)
class Brightness(Scorer):
    name, kind, higher_is_better, minimum, maximum = "brightness", "score", True, None, None
    description, source = "one number", "here"
    weights: str = ""
    layers: tuple = ()
    target_style: str | None = None
    device: str = "cpu"

    def __call__(self, pictures, prompts):
        return torch.ones(len(pictures))

def made(power: int = 1):
    class Made(Brightness):
        def __call__(self, pictures, prompts):
            return torch.full((len(pictures),), float(power))
    return Made()
"""


def fingerprint(style: str | None = None, device: str = "cpu", target: str = "brightness", **settings) -> str:
    return build_scorers([{"_target_": target, **settings}], style, device)[0].fingerprint


def test_another_setting_is_another_score_in_the_table_and_in_the_store(install, tiny_pipeline_folder, tmp_path):
    install()
    (tmp_path / "prompts.txt").write_text("a fox\nrain\n")
    drawn = {"models": [str(tiny_pipeline_folder)], "prompts": str(tmp_path / "prompts.txt"), "base": False}
    drawn |= {"steps": 1, "height": 16, "width": 16, "output_root": str(tmp_path / "outputs")}

    def scores(scorer: str | dict) -> list[float]:
        (folder,) = evaluate(drawn | {"scorers": [scorer]})
        return [float(row["brightness"]) for row in read_rows(folder / "scores.csv")]

    once, twice, again = (scores(one) for one in ("brightness", {"_target_": "brightness", "scale": 2}, "brightness"))
    assert twice == pytest.approx([2 * score for score in once], rel=1e-6) and min(once) > 0
    assert again == once


def test_settings_count_as_the_constructor_takes_them(install, tmp_path):
    install(READER)
    plain = fingerprint()
    assert fingerprint(weights="", layers=[]) == fingerprint(device="meta") == plain
    others = [fingerprint("twemoji"), fingerprint(weights="a")]
    others += [fingerprint(layers=layers) for layers in ([1, [2]], [1, 2], {"a": 1}, {"a": 1, 2: None})]
    assert len({plain, *others}) == 7
    install(READER, "made")
    assert len({fingerprint(), fingerprint(power=1), fingerprint(power=2)}) == 2


def test_the_bytes_of_every_file_that_a_setting_names_count(install, tmp_path, monkeypatch):
    install(READER)
    monkeypatch.chdir(tmp_path)
    before = fingerprint(weights="net")
    (tmp_path / "net" / "deep").mkdir(parents=True)
    for file in ("net/deep/a.bin", "net/b.txt"):
        (tmp_path / file).write_text("one")
        seen, before = before, fingerprint(weights="net")
        assert seen != before
        (tmp_path / file).write_text("two")
        seen, before = before, fingerprint(weights="net")
        assert seen != before
    (tmp_path / "net" / "circle").symlink_to(tmp_path / "net", target_is_directory=True)
    (tmp_path / "net" / ".hidden").write_text("x")
    assert fingerprint(weights="net") == before
    nested = fingerprint(layers=[{"file": "net/b.txt"}])
    (tmp_path / "net" / "b.txt").write_text("three")
    assert fingerprint(layers=[{"file": "net/b.txt"}]) != nested
    for odd in ("x" * 5000, "a\0b", "~nobody/there", "builtin:none", " "):  # no paths, and no errors
        fingerprint(weights=odd)


def test_the_code_of_another_package_counts(install):
    install(READER)
    before = fingerprint()
    install(READER.replace("torch.ones(", "torch.zeros("))
    assert fingerprint() != before


def test_missing_settings_and_presets_are_told(install):
    install(READER + "class Needy(Brightness):\n    def __init__(self, scale, **more):\n        pass\n", "Needy")
    with pytest.raises(UserError, match=r"needs its setting scale: \{_target_: brightness, scale: \.\.\.\}"):
        build_scorers(["brightness"])
    assert fingerprint(scale=1, more=2) != fingerprint(scale=1, more=3)
    with pytest.raises(UserError, match=r"hps_v2\.1 has no setting version"):
        build_scorers([{"_target_": "hps_v2.1", "version": "v2.0"}])


def test_the_scorers_of_clip_count_weights_wherever_they_lie_and_the_architecture(architectures, clip_file, tmp_path):
    def of(target: str, **changed: str) -> str:
        architecture = {"architecture": changed.pop("architecture", architectures["quick"])}
        return fingerprint(target=target, **architecture, **changed)

    moved, other = shutil.copy(clip_file, tmp_path / "moved.safetensors"), tmp_path / "other.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(clip_file).items()}, other)
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        heads.append(str(tmp_path / f"head{seed}.pth"))
        torch.save(aesthetic_head(16).state_dict(), heads[-1])
    exact = architectures["exact"]
    for target, key, more in (
        ("clip_score", "weights", {}),
        ("hps_v2.0", "weights", {}),
        ("aesthetic", "clip_weights", {"weights": heads[0]}),
    ):
        plain, same, weights = (of(target, **{key: str(file)}, **more) for file in (clip_file, moved, other))
        architecture = of(target, **{key: str(clip_file)}, **more, architecture=exact)
        assert plain == same and len({plain, weights, architecture}) == 3
    aesthetic = [of("aesthetic", weights=head, clip_weights=str(clip_file)) for head in heads]
    assert aesthetic[0] != aesthetic[1]
    assert of("hps_v2.0", weights=str(clip_file)) != of("hps_v2.1", weights=str(clip_file))


def test_open_clip_does_not_say_that_the_weights_are_random(architectures, clip_file, caplog, capfd):
    from mapolab.evaluation.scorers.clip_score import CLIPScore

    filled = CLIPScore(str(clip_file), architectures["quick"]).clip.model.state_dict()
    assert "random" not in caplog.text + capfd.readouterr().err
    for name, tensor in load_file(clip_file).items():
        torch.testing.assert_close(filled[name], tensor, rtol=0, atol=0)
    lacking = load_file(clip_file)
    del lacking["visual.proj"]
    save_file(lacking, clip_file)
    with pytest.raises(UserError, match=r"does not hold the weights of clip_score: it lacks .*visual\.proj"):
        CLIPScore(str(clip_file), architectures["quick"])
    with pytest.raises(UserError, match=r"open-clip has no architecture ViT-L14\. Did you mean ViT-L-14"):
        CLIPScore(str(clip_file), "ViT-L14")


def test_the_twins_judges_count_the_style_and_the_concept():
    styles = [fingerprint(style, target="style") for style in ("twemoji", "fluent-emoji-flat")]
    distances = [fingerprint(style, target="pixel_distance") for style in ("twemoji", "fluent-emoji-flat")]
    concepts = [fingerprint(target="avoids"), fingerprint(target="avoids", concept="apple")]
    assert len({*styles, *distances, *concepts}) == 6
    assert fingerprint("twemoji", target="concept") == fingerprint("fluent-emoji-flat", target="concept")


class Direct(Scorer):
    name, kind, higher_is_better, minimum, maximum = "direct", "score", True, None, None

    def __init__(self, power: int = 1, version: int = 1):
        self.version = version

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(pictures))


def test_a_scorer_that_is_made_without_a_config_has_its_settings_too():
    assert Direct().fingerprint == Direct(power=1).fingerprint
    assert len({one.fingerprint for one in (Direct(), Direct(2), Direct(version=2))}) == 3
