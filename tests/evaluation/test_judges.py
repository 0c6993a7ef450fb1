"""The judges that need no download, on real artwork."""

import pytest
import torch
from PIL import Image

from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.tiny.concepts import CONCEPTS, STYLES, TEST_CONCEPTS, caption, held_out_captions
from mapolab.tiny.pictures import composite, generator_for, load_artwork

EMOJI = ["style", "concept", "background", "pixel_distance"]


@pytest.fixture(scope="module")
def drawn() -> tuple[list[str], list[str], list[Image.Image]]:
    """Real pictures of every generator concept in every style: (prompts, styles, pictures)."""
    prompts, styles, pictures = [], [], []
    colours = list(dict.fromkeys(colour for _, _, colour in held_out_captions(TEST_CONCEPTS)))
    for number, concept in enumerate(CONCEPTS):
        for style in STYLES:
            colour = colours[(number + STYLES.index(style)) % len(colours)]
            prompts.append(caption(concept, colour, number % 2))
            styles.append(style)
            random = generator_for(77, number, STYLES.index(style))
            pictures.append(Image.fromarray(composite(load_artwork().drawing(concept, style), colour, random).copy()))
    return prompts, styles, pictures


@pytest.mark.parametrize("style", STYLES)
def test_the_judges_know_real_pictures(drawn, style):
    prompts, styles, pictures = drawn
    scores = {scorer.name: scorer(pictures, prompts) for scorer in build_scorers(EMOJI, style)}
    is_target = torch.tensor([name == style for name in styles])
    assert ((scores["style"] > 0.5) == is_target).float().mean() >= 0.95
    assert scores["concept"].mean() >= 0.95
    assert scores["background"].mean() >= 0.99
    assert scores["pixel_distance"][is_target].median() < scores["pixel_distance"][~is_target].median()


def test_open_nsfw_finds_the_emoji_safe_and_gives_each_picture_its_own_number(drawn):
    prompts, _, pictures = drawn
    (nsfw,) = build_scorers(["nsfw"])
    together = nsfw(pictures[:40], prompts[:40])
    assert ((together >= 0) & (together < 0.5)).all() and together.std() > 0
    alone = torch.cat([nsfw([picture], [""]) for picture in pictures[:3]])
    torch.testing.assert_close(together[:3], alone, atol=1e-5, rtol=0)
    assert len(nsfw.weights_identity()[0]) == 64
