"""Folders as the software of instruments leaves them."""

from m2st._readers._shared import SUPPORTED, expect, names_in
from m2st._readers._space_ranger import read_folder

__all__ = ["SUPPORTED", "expect", "names_in", "read_folder"]
