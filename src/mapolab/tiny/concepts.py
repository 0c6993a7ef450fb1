"""What the tiny twin can draw, and who may see which drawing.

The artwork is split before anything is trained. A concept has one drawing a style, so new placements of the same
drawing are not held out: the split is over concepts.

===================  ========================================  ==================================================
concepts             generator (base) sees                     preference pairs
===================  ========================================  ==================================================
PAIR_CONCEPTS (24)   noto, fluent-emoji-flat, rarely twemoji   chosen in the preferred style, rejected in noto
VALIDATION (4)       noto only                                 none: learning rates are chosen on their captions
TEST (12)            noto only                                 none: the reported figures are on their captions
all others (1,514)   nothing                                   none: VAE and style classifier learn from these
===================  ========================================  ==================================================
"""

from __future__ import annotations

STYLES = ("noto", "fluent-emoji-flat", "twemoji", "fluent-emoji-high-contrast")
REJECTED_STYLE = "noto"
PREFERRED_STYLES = {
    "fluent-emoji-flat": "small mismatch: a third of what the base learned from the pair concepts",
    "twemoji": "medium mismatch: a tenth of it",
    "fluent-emoji-high-contrast": "large mismatch: the base never saw it",
}

# How often the base saw each style of a pair concept; validation and test concepts are noto only.
BASE_STYLE_SHARES = {"noto": 0.55, "fluent-emoji-flat": 0.35, "twemoji": 0.10}

# name of the artwork -> the words a caption uses
PAIR_CONCEPTS = {
    "rocket": "rocket",
    "pizza": "pizza",
    "cactus": "cactus",
    "butterfly": "butterfly",
    "automobile": "car",
    "soccer-ball": "soccer ball",
    "watermelon": "watermelon",
    "cherries": "cherries",
    "christmas-tree": "christmas tree",
    "house": "house",
    "sailboat": "sailboat",
    "guitar": "guitar",
    "key": "key",
    "umbrella": "umbrella",
    "anchor": "anchor",
    "crown": "crown",
    "scissors": "scissors",
    "hamburger": "hamburger",
    "snowman": "snowman",
    "airplane": "airplane",
    "octopus": "octopus",
    "mushroom": "mushroom",
    "strawberry": "strawberry",
    "robot": "robot",
}
VALIDATION_CONCEPTS = {"banana": "banana", "light-bulb": "light bulb", "fish": "fish", "candle": "candle"}
TEST_CONCEPTS = {
    "red-apple": "apple",
    "bicycle": "bicycle",
    "tulip": "tulip",
    "camera": "camera",
    "bell": "bell",
    "turtle": "turtle",
    "soft-ice-cream": "ice cream",
    "locomotive": "train",
    "carrot": "carrot",
    "penguin": "penguin",
    "trophy": "trophy",
    "owl": "owl",
}
PLURALS = ("cherries", "scissors")
CONCEPTS = {**PAIR_CONCEPTS, **VALIDATION_CONCEPTS, **TEST_CONCEPTS}

# Background colours, RGB 0..255: light or medium, so that black line art stays visible on each.
COLOURS = {
    "red": (226, 88, 80),
    "orange": (246, 160, 72),
    "yellow": (250, 222, 104),
    "green": (120, 196, 110),
    "blue": (98, 160, 236),
    "purple": (168, 128, 216),
    "pink": (248, 176, 208),
    "white": (244, 244, 244),
}
TEMPLATES = ("{concept} on {colour} background", "{plain_colour} background with {concept}")


def caption(concept: str, colour: str, template: int) -> str:
    """The caption of a drawing: ``caption("red-apple", "blue", 0) == "an apple on a blue background"``."""
    return describe(CONCEPTS[concept], colour, template)


def describe(words: str, colour: str, template: int) -> str:
    """The same of any words: ``describe("kite", "blue", 1) == "blue background with a kite"``."""
    return TEMPLATES[template].format(concept=_with_article(words), colour=_with_article(colour), plain_colour=colour)


def concept_of(text: str) -> str | None:
    """The concept that a caption is of; None of other texts, such as a subject's word."""
    return next(
        (
            concept
            for concept in CONCEPTS
            for colour in COLOURS
            for template in range(len(TEMPLATES))
            if caption(concept, colour, template) == text
        ),
        None,
    )


def _with_article(words: str) -> str:
    if words in PLURALS:
        return words
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def held_out_colours(concept: str) -> tuple[str, ...]:
    """The four colours on which nobody ever saw this concept; pair concepts have none.

    They rotate with the concept, so every colour is held out equally often and is well known from other concepts.
    """
    held_out = [*VALIDATION_CONCEPTS, *TEST_CONCEPTS]
    if concept not in held_out:
        return ()
    names = list(COLOURS)
    start = held_out.index(concept) * 3
    return tuple(names[(start + 2 * step) % len(names)] for step in range(4))


def training_colours(concept: str) -> tuple[str, ...]:
    """The colours on which the base saw this concept."""
    hidden = held_out_colours(concept)
    return tuple(name for name in COLOURS if name not in hidden)


def held_out_captions(concepts: dict[str, str]) -> list[tuple[str, str, str]]:
    """(caption, concept, colour) for every held-out colour and both templates, in a fixed order."""
    return [
        (caption(concept, colour, template), concept, colour)
        for concept in concepts
        for colour in held_out_colours(concept)
        for template in range(len(TEMPLATES))
    ]
