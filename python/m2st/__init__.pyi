from . import datasets as datasets
from . import interop as interop
from . import io as io
from . import metrics as metrics
from . import paper as paper
from . import pl as pl
from . import pp as pp
from . import tl as tl
from ._annotate import annotate as annotate
from ._clustering import MultiScaleClustering as MultiScaleClustering
from ._defaults import defaults as defaults
from ._model import Model as Model
from ._model import load as load
from ._nn._autoencoder import MaskedGraphAutoencoder as MaskedGraphAutoencoder
from ._params import AutoencoderParams as AutoencoderParams
from ._params import ClusteringParams as ClusteringParams
from ._report import report as report
from ._run import run as run
from .compare import compare_methods as compare_methods

__version__: str
