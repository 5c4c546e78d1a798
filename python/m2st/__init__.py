"""m2ST: spatial domains from spatial transcriptomics.

A multi-scale masked graph autoencoder learns embeddings of spots or cells at several scales, and
an entropy-weighted multi-scale clustering finds spatial domains from them.
"""

import lazy_loader

__version__ = "0.2.0"

# Submodules load on first use, so that `import m2st` is quick: the names are in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
