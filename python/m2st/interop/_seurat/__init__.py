"""Seurat objects of versions 3 to 5 to AnnData and back."""

from m2st.interop._seurat._read import read_seurat
from m2st.interop._seurat._write import write_seurat

__all__ = ["read_seurat", "write_seurat"]
