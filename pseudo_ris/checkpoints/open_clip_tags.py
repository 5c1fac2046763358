"""Published weights that open_clip knows: its names for them ("tags"), its download, its checksums of OpenAI's archives.

open_clip is imported inside the functions: importing it takes seconds, and no model of stage 1 needs it.
"""

from __future__ import annotations

from pathlib import Path

from pseudo_ris.errors import UserError


def tags_of(architecture: str) -> list[str]:
    """Tags that open_clip lists for a model name; empty for an unknown name."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(architecture)


def openai_checksums() -> set[str]:
    """Sha256 of the TorchScript archives that OpenAI published CLIP in; the addresses that open_clip has contain them."""
    from open_clip.pretrained import get_pretrained_url, list_pretrained_models_by_tag

    return {get_pretrained_url(model, "openai").split("/")[-2] for model in list_pretrained_models_by_tag("openai")}


def fetch_tag(architecture: str, tag: str, cache: Path | None = None) -> Path:
    """The file of a tag, which open_clip downloads unless it is cached. Raises UserError when the download fails.

    cache: folder; None means the Hugging Face cache, or ~/.cache/clip for weights that are not on the Hub.
    """
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    try:
        return Path(download_pretrained(get_pretrained_cfg(architecture, tag), cache_dir=cache and str(cache)))
    except Exception as error:  # the hub client raises errors of many libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{architecture} {tag}: open_clip cannot download these weights ({reason}); "
            "check the network and try again, or give a checkpoint file"
        ) from error
