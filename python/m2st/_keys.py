"""The names under which results are stored; docs/guide/slots.md has the table."""

DOMAIN = "m2st_domain"
"""``obs``: the domain of each observation, categorical ``"1"`` .. ``"K"`` in numeric order."""

CONFIDENCE = "m2st_confidence"
"""``obs``: estimated probability that another run agrees with the domain, in [0, 1]."""

EMBEDDING = "X_m2st"
"""``obsm``: the representation common to all scales and members."""

RECORD = "m2st"
"""``uns``: parameters, seed, versions, histories and the graph report of a run."""

FEATURES = "X_m2st_pca"
"""``obsm``: the features that the autoencoder is trained on."""

SINGLE = "X_m2st_pca_single"
"""``obsm``: components of single observations, for the test for structure in space."""

COORDINATES = "spatial"
"""``obsm``: coordinates of the observations."""

IN_TISSUE = "in_tissue"
"""``obs``: whether the observation lies on the tissue, as Space Ranger writes it."""

CONNECTIVITIES = "spatial_connectivities"
"""``obsp``: the spatial graph, binary, symmetric, without self-loops."""

DISTANCES = "spatial_distances"
"""``obsp``: length of each edge of the spatial graph, in the units of the coordinates."""

NEIGHBORS = "spatial_neighbors"
"""``uns``: where the graph is stored and how it was built, in squidpy's layout."""


def scale_embedding(scale: int | str) -> str:
    """``obsm``: embedding of a scale, counted from 1, members side by side; ``""``: prefix."""
    return f"{EMBEDDING}_scale{scale}"


def colors(key: str) -> str:
    """``uns``: key of the colours of a categorical column, scanpy's convention."""
    return f"{key}_colors"
