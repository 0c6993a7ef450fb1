"""Unknown keys, wrong types and missing values are named, with the nearest right key."""

import pytest

from mapolab.config.compose import compose
from mapolab.errors import UserError

MISTAKES = {
    "+trainer.max_step=3": "trainer.max_step. Did you mean trainer.max_steps?",
    "+lr=1e-3": "There is no key lr.",
    "trainer.max_steps=ten": "trainer.max_steps has the wrong type",
    "trainer.max_steps=1.5": "trainer.max_steps has the wrong type",
    "data.cache=perhaps": "data.cache has the wrong type",
    "trainer=default data=parquet_pairs": "data.path has no value",
    "data.path=${model.nothing}": "data.path cannot be resolved",
    "~data.cache": "data.cache has no value",
    "experiment=personalization data.path=p data.batch_size=8 model.lora.token_initial=dog": "evaluation.scorers.0."
    "pictures has no value",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_named(overrides: str) -> None:
    with pytest.raises(UserError) as raised:
        compose("train", overrides.split())
    assert MISTAKES[overrides] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_values_come_out_as_plain_typed_python() -> None:
    config = compose("train", ["data.flip_probability=1", "trainer.ema_decay=0.9", "output_dir=12"])
    assert type(config["data"]["flip_probability"]) is float
    assert config["trainer"]["ema_decay"] == 0.9
    assert config["output_dir"] == "12"
    assert type(config["optimizer"]["betas"]) is list
