"""A fitted model, and the folder that holds it."""

from m2st._model._folder import check_folder, load
from m2st._model._model import Member, Model

__all__ = ["Member", "Model", "check_folder", "load"]
