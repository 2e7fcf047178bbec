"""What this package uses of other libraries' private interfaces, and nowhere else.

Each function says which public way was tried and why it isn't enough. Where the private interface is gone,
most take a way that is slower but right; where there is no other way, the function says how it fails (in one
line by :func:`unknown_interface`, or in the test that watches it). ``tests/compat`` has for each a test that
fails when the installed version has changed, and one of the fall-back; ``interpreter.py`` is tested where it
is used, in ``tests/terminal/test_ending.py``. :data:`TESTED` has the versions.

What a library asks its users to override is no private interface, underscore or not, and stands where it is
used: of transformers' ``PreTrainedModel`` these are ``_init_weights``, ``_no_split_modules``,
``_skip_keys_device_placement``, ``_supports_sdpa``, ``_supports_attention_backend``,
``_keep_in_fp32_modules_strict`` and ``_keys_to_ignore_on_load_unexpected``; the attention and mask functions
that ``AttentionInterface`` and ``AttentionMaskInterface`` register; masks that are passed to a decoder as a
dictionary, as transformers' own ``generate`` does.
"""

from __future__ import annotations

from mdl_toolkit.errors import ModelError

#: Lowest and highest versions that the tests of this package have passed with.
TESTED = {
    "accelerate": ("1.15", "1.15"),
    "bitsandbytes": ("0.48", "0.50"),
    "datasets": ("4.0", "5.2"),
    "peft": ("0.20", "0.21"),
    "torch": ("2.10", "2.13"),
    "transformers": ("5.3", "5.24"),
}


def unknown_interface(library: str, what: str, remedy: str) -> ModelError:
    """The error for an interface that has changed and has no other way.

    Args:
        library: Its name as pip has it.
        what: What it does otherwise than expected, as the rest of a sentence.
        remedy: What the user can do.
    """
    from importlib import metadata  # 20 ms, which every command would pay

    lowest, highest = TESTED[library]
    return ModelError(
        f"{library} {metadata.version(library)} {what} (tested with {lowest} to {highest}): {remedy}"
    )
