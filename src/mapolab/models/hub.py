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

# The commits of the hub's repositories that the code names, which count where no other revision is given: what a branch
# holds may change. Of the two checkpoints of papers (`published:diffusion_dpo`, `published:mapo`) none is known here.
PINNED = {
    "stabilityai/stable-diffusion-xl-base-1.0": "462165984030d82259a11f4367a4eed129e94a7b",
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    "xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a",
    "zai-org/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "timm/vit_large_patch14_clip_224.openai": "18d0535469bb561bf468d76c1d73aa35156c922b",
    "facebook/dinov2-base": "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
}
OTHER_VARIANTS = ["*.fp16.safetensors", "*.fp16-*.safetensors", "*.non_ema.safetensors"]


def fetch(name: str, revision: str | None, wanted: list[str], variant: str | None, key: str) -> Path:
    """The hub's snapshot folder with the files that match `wanted`.

    revision: None for the pinned one, or the newest where none is. key: the config key that named it, for the message.
    Raises UserError if they cannot be had.
    """
    revision = revision or PINNED.get(name)
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
