"""A result as one page."""

from m2st._report._map import _image
from m2st._report._page import report

__all__ = ["_image", "report"]
