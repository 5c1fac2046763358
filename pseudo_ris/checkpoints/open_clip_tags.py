"""open_clip's names for published weights ("tags"), and fetching them the way open_clip does.

open_clip is imported where a tag is looked up: with its libraries it takes seconds, and no model of stage 1 needs it.
"""

from __future__ import annotations

from pathlib import Path

from pseudo_ris.errors import UserError


def tags_of(architecture: str) -> list[str]:
    """Tags that open_clip knows for a model name; none for a name it does not know."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(architecture)


def fetch_tag(architecture: str, tag: str, cache: Path | None = None) -> Path:
    """The file of a tag, from open_clip's cache or downloaded into it by open_clip. Raises UserError when that fails.

    cache: folder; None is the Hugging Face cache, or ~/.cache/clip for weights that are not on the hub.
    """
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    try:
        return Path(download_pretrained(get_pretrained_cfg(architecture, tag), cache_dir=cache and str(cache)))
    except Exception as error:  # the hub client raises errors of many libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{architecture} {tag}: open_clip cannot download these weights ({reason}); "
            "try again with a network, or give a checkpoint file"
        ) from error
