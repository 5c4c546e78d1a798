"""Folders and files as the software of instruments leaves them."""

from m2st._readers._cells import read_xenium
from m2st._readers._folder import read_folder
from m2st._readers._shared import SUPPORTED, expect, names_in
from m2st._readers._space_ranger import read_space_ranger
from m2st._readers._stereo import is_stereopy, place_from_obs, read_stereopy

__all__ = [
    "SUPPORTED",
    "expect",
    "is_stereopy",
    "names_in",
    "place_from_obs",
    "read_folder",
    "read_space_ranger",
    "read_stereopy",
    "read_xenium",
]
