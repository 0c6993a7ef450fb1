"""What came from the environment: told from the rest as the config is loaded, and not written where others read it."""

from mapolab.config.compose import compose
from mapolab.config.environment_values import as_saved, as_typed, for_others, hide
from mapolab.config.identity import identity, run_name


def test_each_leaf_that_depends_on_the_environment_is_told(monkeypatch) -> None:
    monkeypatch.setenv("DATA_TOKEN", "abcdefgh1234")
    monkeypatch.setenv("BETA", "9")
    given = ["objective=mapo", "objective.beta='${oc.decode:${oc.env:BETA}}'", "data.preferred_style=x"]
    path = "h/${oc.env:DATA_TOKEN}/${data.preferred_style}.parquet"
    config = compose("train", [*given, f"data.path='{path}'", "evaluation.prompts=${data.path}"])
    assert config["data"]["path"] == "h/abcdefgh1234/x.parquet" and config["objective"]["beta"] == 9
    typed = "h/${oc.env:DATA_TOKEN}/x.parquet"
    texts = config["from_environment"]
    assert texts["data.path"] == texts["evaluation.prompts"] == typed
    assert set(texts) == {"data.path", "evaluation.prompts", "objective.beta"}
    assert "abcdefgh1234" not in repr(as_saved(config)) and as_saved(config)["objective"]["beta"] == 9
    assert "from_environment" not in as_typed(config) and "from_environment" not in identity(config)
    plain = compose("train", ["objective=mapo", "objective.beta=9", "data.path='h/abcdefgh1234/x.parquet'"])
    assert "from_environment" not in plain
    assert run_name(plain | {"data": config["data"]}) == run_name(config)


def test_texts_lose_values_secrets_and_folders(monkeypatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("WHERE", "some-bucket")
    config = {"data": {"path": "s3://some-bucket/x"}, "from_environment": {"data.path": "s3://${oc.env:WHERE}/x"}}
    assert hide("s3://some-bucket/x of some-bucket", config) == "s3://${oc.env:WHERE}/x of ${oc.env:WHERE}"
    assert hide("key=0123456789abcdef") == "key=${oc.env:MY_API_KEY}"
    assert hide("https://me:pass@host/x?token=a1&b=2 logger.api_key=abc") == (
        "https://host/x?token=...&b=2 logger.api_key=..."
    )
    assert hide("hf_abcdefghijklmnopqrst") == "hf_..."
    value = {"command": "mapolab train data.path=/home/me/x.parquet", "model": "~/models/sdxl", "other": ["a/b", 3]}
    assert for_others(value) == {
        "command": "mapolab train data.path=.../x.parquet", "model": ".../sdxl", "other": ["a/b", 3],
    }  # fmt: skip
    assert for_others("https://host/a/b builtin:tiny_twin 1/2") == "https://host/a/b builtin:tiny_twin 1/2"
