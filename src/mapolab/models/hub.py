"""Files of a model on the hub: fetched into its cache, with one paragraph for what can go wrong."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mapolab.errors import UserError

OTHER_VARIANTS = ["*.fp16.safetensors", "*.fp16-*.safetensors", "*.non_ema.safetensors"]


def fetch(name: str, revision: str | None, wanted: list[str], variant: str | None, key: str) -> Path:
    """The hub's snapshot folder with the files that match `wanted`.

    key: the config key that named it, for the message. Raises UserError if they cannot be had.
    """
    # Without a variant, the others that lie beside the full weights are not wanted.
    unwanted = None if variant else OTHER_VARIANTS
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted))
    except RevisionNotFoundError:
        raise UserError(
            f"The model {name} has no revision {revision} on the hub. Give a commit, tag or branch that its page lists "
            f"under 'History', or none for the newest; {key} names the model."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub has no model {name} (or it is gated and you are not logged in). Check {key}."
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:  # ValueError: no name of the hub
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"The model {name}{at} is not in the local cache and could not be fetched ({type(error).__name__}). "
            f"Connect to the network, or download it elsewhere and give its folder as {key}."
        ) from None


def is_hub_name(name: str) -> bool:
    """Whether a string reads owner/name and not like a path."""
    return not name.startswith((".", "/", "~")) and name.count("/") == 1
