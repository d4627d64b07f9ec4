"""The preferences of a client among representations: weights in `Accept` and its kin, RFC 9110, section 12.4.2."""

import re
from typing import Final

# A weight has three digits at most; an element with any other weight, or with other parameters, is ignored.
_ELEMENT: Final = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9a-z/-]+)\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?", re.ASCII | re.IGNORECASE
)
# No client names more; a header that is all commas would be work for nothing.
_MAX_ELEMENTS: Final = 32


def weights(header: str) -> dict[str, float]:
    """The weight of each element of `header`, from 0 to 1, by its name in lower case."""
    found: dict[str, float] = {}
    for element in header.lower().split(",")[:_MAX_ELEMENTS]:
        match = _ELEMENT.fullmatch(element)
        if match is not None:
            found[match[1]] = min(float(match[2] or 1), 1.0)
    return found
