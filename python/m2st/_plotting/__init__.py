"""What pictures and the report share: sections, spots, colours and tissue images."""

from m2st._plotting._image import channels_last, to_rgb, white
from m2st._plotting._palette import (
    FIRST_COLORS,
    MISSING_COLOR,
    as_seen,
    kept_colors,
    matched_colors,
    palette,
    share_colors,
    stored_colors,
)
from m2st._plotting._spots import (
    Section,
    describe_spots,
    find_libraries,
    find_library,
    find_samples,
    find_section,
    mapping_in,
    positive,
    read_categories,
    read_places,
    read_shares,
    spot_shape,
)

__all__ = [
    "FIRST_COLORS",
    "MISSING_COLOR",
    "Section",
    "as_seen",
    "channels_last",
    "describe_spots",
    "find_libraries",
    "find_library",
    "find_samples",
    "find_section",
    "kept_colors",
    "mapping_in",
    "matched_colors",
    "palette",
    "positive",
    "read_categories",
    "read_places",
    "read_shares",
    "share_colors",
    "spot_shape",
    "stored_colors",
    "to_rgb",
    "white",
]
