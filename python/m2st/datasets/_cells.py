"""Simulated single cells: domains that differ in their cell types alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from m2st import _keys
from m2st._checks import check_int, check_interval, check_seed
from m2st.datasets._simulated import bend, draw_negative_binomial, lay_lattice, smooth_field

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

# Geometry
_PITCH = 10.0  # µm between places of the lattice that the cells are moved from
_JITTER = 0.4  # pitches, the farthest that a cell is moved
_EMPTY = 0.25  # share of the lattice's places without a cell
_THICKNESS = (0.4, 1.5, 0.8, 1.3)  # of the layers beside the main one, repeated as needed
_NICHE_SHARE = 0.04
_PATCHES = 2  # of each niche
_FEWEST = 3  # cells of a domain in a section, whatever its share

# Cell types. Every domain is half one thing and half another: see `_compositions`.
_COMMON = (0.30, 0.24, 0.18, 0.12, 0.09, 0.07)  # abundance of the types that are found everywhere
_LEAK = 0.25  # abundance of a layer's own type in the layers next to it
_LOCAL_SHARE = 0.8  # of a layer's own part, the share of the types of this and the next layers

# Expression. Logarithms are natural.
_MARKERS, _FIELD, _ACTIVITY = 0.7, 0.08, 0.08  # shares of the genes
_COUNTS_PER_CELL = 150
_CHUNK_ENTRIES = 2_000_000  # cells × genes that are dense at a time


class _Genes(NamedTuple):
    """What sets the expression of the G genes."""

    module: list[str]
    baseline: _Floats  # (C, G): log expression in each cell type
    loadings: _Floats  # (2, G): response to the field and to the activity
    size: _Floats  # (G,): θ of the negative binomial


def simulate_cells(
    n_obs: int = 3000,
    n_genes: int = 120,
    n_domains: int = 7,
    *,
    n_niches: int = 2,
    mixing: float = 0.2,
    main_share: float = 0.35,
    n_samples: int = 1,
    batch_shift: float = 0.0,
    missing_layer: bool = False,
    random_state: int = 0,
) -> AnnData:
    r"""Simulate sections of single cells, whose domains differ in their cell types alone.

    Each section is a bent piece of tissue with thin and thick layers, an irregular outline and a
    hole. The cells lie at irregular places, in some regions denser than in others. A niche lies
    within the main layer, as two patches. Each cell has one type. Its expression depends on its
    type, not on its domain. For cell :math:`i` of section :math:`s` in domain :math:`d_i`,

    .. math::

        c_i &\sim \operatorname{Categorical}\{(1 - m)\, q_{d_i} + m\, q_0\} \\
        \lambda_{ig} &= \exp\{\beta_g + T_{c_i g} + B_{sg} + B_{s c_i g} + f_i S_g + z_i R_g\} \\
        \mu_{ig} &= \ell_i \lambda_{ig} / \textstyle\sum_{g'} \lambda_{ig'}, \qquad
        \ell_i = 150 \exp(v_{c_i} + D_s + 0.4\, \varepsilon_i) \\
        y_{ig} &\sim \operatorname{NB}(\text{mean } \mu_{ig},
            \text{variance } \mu_{ig} + \mu_{ig}^2 / \theta_g)

    =========================  =====================================================================
    :math:`m`                  `mixing`
    :math:`q_0`                composition that all domains share: six common types
    :math:`q_d`                the domain's own. A layer: 0.8 for the types of this layer and the
                               layers next to it, as 1 : 0.25, and 0.2 for the common types. A
                               niche: one quarter from the main layer's own and three quarters
                               from two common types, as 2 : 1
    :math:`\beta_g, T_{cg}`    baseline, N(0, 0.8²); log fold changes of the markers of type c,
                               Gamma(4) with mean 2, otherwise 0. A layer's type has half the
                               change for the markers of the types of the next layers
    :math:`B_{sg}, B_{scg}`    shift of the section, N(0, batch_shift²), and of each type in it,
                               with half the standard deviation
    :math:`D_s, v_c`           sequencing depth of the section, N(0, batch_shift²); size of cells of
                               type c, N(0, 0.2²)
    :math:`f_i, S_g`           smooth random field over the section, unrelated to the domains, mean
                               0 and variance 1; response to it, N(0, 0.5²)
    :math:`z_i, R_g`           activity of the cell, N(0, 1); response, N(0, 0.7²)
    :math:`\varepsilon_i`      N(0, 1)
    :math:`\theta_g`           4 · lognormal(0, 0.4²)
    =========================  =====================================================================

    70 % of the genes mark cell types, 8 % respond to the field, 8 % to the activity. The others
    have only their baseline and the shifts.

    Parameters
    ----------
    n_obs
        Number of cells over all sections, met exactly; sections differ by one cell at most. At
        least 20 cells per domain and section.
    n_genes
        Number of genes, at least two per cell type. A cell has about 150 counts, whatever
        their number.
    n_domains
        Number of domains, niches included. At least two are layers.
    n_niches
        Number of domains that are niches, at most six. The types that are found in a niche are
        those of the main layer around it. Only their shares differ. A niche has 4 % of the cells.
    mixing
        In [0, 1]: share of the cells of each domain whose type is drawn from one composition, the
        same in all domains. At 0, domains differ most, and at 1, the counts do not depend on them.
    main_share
        Share of the cells in the main layer, from 0.1 to 0.6, the same in each section. The main
        layer is the middle one. The other layers share the rest unequally and differently in each
        section.
    n_samples
        Number of sections. Cell types and genes are the same in all of them. Shape, orientation and
        thickness of layers differ. Their coordinates overlap, as in real data.
    batch_shift
        Standard deviation of the logarithmic shifts of sections, from 0 to 5: per gene, per gene
        and cell type (one half of it), and of depth.
    missing_layer
        Whether the last section lacks the last layer. Its share goes to the other layers.
    random_state
        Seed. The same seed gives the same bits; no random state of the caller is touched.

    Returns
    -------
    AnnData of `n_obs` cells and `n_genes` genes with

    - ``X``: counts, CSR matrix of float32
    - ``obs["domain"]``: the planted domain, categorical, ``"layer1"``, .., ``"niche1"``, ..
    - ``obs["cell_type"]``: categorical, ``"local1"``, .. (one for each layer) and ``"common1"`` ..
      ``"common6"``
    - ``obs["sample"]``: the section, categorical, ``"section1"``, ``"section2"``, ..
    - ``var["module"]``: what the gene responds to, categorical: the cell type that it marks,
      ``"field"``, ``"activity"`` or ``"housekeeping"``
    - ``obsm["spatial"]``: float64 (n_obs, 2), x and y in µm, y downwards
    - ``uns["simulation"]``: the arguments of this call, and ``"composition"``, a data frame of the
      share of each cell type (columns) in each domain (rows) that types were drawn from

    Raises
    ------
    TypeError
        If an argument is not a number of the kind expected.
    ValueError
        If an argument is out of its range.

    Notes
    -----
    No method can place all cells at a border, because common types are found in all domains. These
    adjusted Rand indices hold for the default arguments, and a test checks them. k-means on
    principal components without space has less than 0.25. k-means on components averaged over 20
    neighbours has 0.35 to 0.7. A linear classifier that has seen the true domains reaches 0.7 from
    the same averages.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cells(500, 60, n_domains=4, n_niches=1)
    >>> adata.shape
    (500, 60)
    >>> list(adata.obs["domain"].cat.categories)
    ['layer1', 'layer2', 'layer3', 'niche1']
    """
    check_int("n_domains", n_domains, minimum=2)
    check_int("n_niches", n_niches, minimum=0)
    n_layers = n_domains - n_niches
    if n_niches > len(_COMMON) or n_layers < 2:
        msg = (
            f"Expected at most {min(len(_COMMON), n_domains - 2)} niches of {n_domains} domains, "
            f"found `n_niches={n_niches}`. Two domains or more are layers, and at most "
            f"{len(_COMMON)} are niches."
        )
        raise ValueError(msg)
    check_int("n_samples", n_samples, minimum=1)
    check_int("n_obs", n_obs, minimum=20 * n_domains * n_samples)
    check_int("n_genes", n_genes, minimum=2 * (n_layers + len(_COMMON)))
    check_interval("mixing", mixing, 0, 1)
    check_interval("main_share", main_share, 0.1, 0.6)
    check_interval("batch_shift", batch_shift, 0, 5)
    if missing_layer and (n_samples < 2 or n_layers < 3):
        msg = (
            "Expected at least two sections and three layers with `missing_layer=True`, found "
            f"`n_samples={n_samples}` and {n_layers} layers. Ask for more of them."
        )
        raise ValueError(msg)
    random_state = check_seed(random_state)

    domains = [f"layer{k}" for k in range(1, n_layers + 1)]
    domains += [f"niche{j}" for j in range(1, n_niches + 1)]
    types = [f"local{k}" for k in range(1, n_layers + 1)]
    types += [f"common{c}" for c in range(1, len(_COMMON) + 1)]
    samples = [f"section{s}" for s in range(1, n_samples + 1)]
    sizes = [n_obs // n_samples + (s < n_obs % n_samples) for s in range(n_samples)]
    gene_rng, *section_rngs = np.random.default_rng(random_state).spawn(1 + n_samples)
    composition = _compositions(n_layers, n_niches, mixing)
    genes = _draw_genes(n_genes, types, n_layers, gene_rng)
    type_size = 0.2 * gene_rng.standard_normal(len(types))

    places, domain, cell_type, counts = [], [], [], []
    for s, (size, rng) in enumerate(zip(sizes, section_rngs, strict=True)):
        lacks = missing_layer and s == n_samples - 1
        cells = _share_out(size, n_layers, n_niches, main_share, rng, lacks_last=lacks)
        xy, where = _draw_section(size, n_layers, cells, rng)
        kind = _draw_types(composition[where], rng)
        shift = rng.standard_normal(n_genes) + 0.5 * rng.standard_normal((len(types), n_genes))
        shifted = genes._replace(baseline=genes.baseline + batch_shift * shift)
        depth = type_size + batch_shift * rng.standard_normal()
        counts += _draw_counts(xy, kind, depth, shifted, rng)
        places.append(xy)
        domain.append(where)
        cell_type.append(kind)

    sample = np.repeat(np.arange(n_samples), sizes)
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical.from_codes(sample, samples),
            "domain": pd.Categorical.from_codes(np.concatenate(domain), domains),
            "cell_type": pd.Categorical.from_codes(np.concatenate(cell_type), types),
        },
        index=[f"{samples[s]}_cell{i}" for s, size in enumerate(sizes) for i in range(1, size + 1)],
    )
    var = pd.DataFrame(
        {"module": pd.Categorical(genes.module, categories=list(dict.fromkeys(genes.module)))},
        index=[f"gene{g}" for g in range(1, n_genes + 1)],
    )
    record = {
        "function": "m2st.datasets.simulate_cells",
        "n_obs": int(n_obs),
        "n_genes": int(n_genes),
        "n_domains": int(n_domains),
        "n_niches": int(n_niches),
        "mixing": float(mixing),
        "main_share": float(main_share),
        "n_samples": int(n_samples),
        "batch_shift": float(batch_shift),
        "missing_layer": bool(missing_layer),
        "random_state": random_state,
        "composition": pd.DataFrame(composition, index=domains, columns=types),
    }
    return AnnData(
        sparse.vstack(counts, format="csr"),
        obs=obs,
        var=var,
        obsm={_keys.COORDINATES: np.concatenate(places)},
        uns={"simulation": record},
    )


def _compositions(n_layers: int, n_niches: int, mixing: float) -> _Floats:
    """Share of each cell type in each domain, layers before niches; rows sum to 1."""
    shared = np.append(np.zeros(n_layers), _COMMON)
    own = np.zeros((n_layers + n_niches, len(shared)))
    local = np.eye(n_layers) + _LEAK * (np.eye(n_layers, k=1) + np.eye(n_layers, k=-1))
    own[:n_layers, :n_layers] = _LOCAL_SHARE * local / local.sum(axis=1, keepdims=True)
    own[:n_layers] += (1 - _LOCAL_SHARE) * shared
    for j in range(n_niches):
        row = own[n_layers + j]
        row += own[_main(n_layers)] / 4
        row[n_layers + j] += 1 / 2
        row[n_layers + (j + 1) % len(_COMMON)] += 1 / 4
    return (1 - mixing) * own + mixing * shared


def _main(n_layers: int) -> int:
    """Index of the layer that holds the niches."""
    return n_layers // 2


def _share_out(
    n_obs: int,
    n_layers: int,
    n_niches: int,
    main_share: float,
    rng: np.random.Generator,
    *,
    lacks_last: bool,
) -> _Ints:
    """Number of cells of each domain in a section, layers before niches."""
    main = _main(n_layers)
    thickness = np.resize(_THICKNESS, n_layers) * np.exp(0.2 * rng.standard_normal(n_layers))
    thickness[main] = 0
    if lacks_last:
        thickness[-1] = 0
    cells = np.zeros(n_layers + n_niches, dtype=np.int64)
    cells[main] = round(main_share * n_obs)
    cells[n_layers:] = max(_FEWEST, round(_NICHE_SHARE * n_obs))
    others = thickness > 0
    rest = n_obs - cells.sum() - _FEWEST * others.sum()
    cuts = np.rint(np.cumsum(thickness) / thickness.sum() * rest).astype(np.int64)
    cells[:n_layers] += np.diff(cuts, prepend=0) + _FEWEST * others
    return cells


def _draw_section(
    n_obs: int, n_layers: int, cells: _Ints, rng: np.random.Generator
) -> tuple[_Floats, _Ints]:
    """Lay cells over a bent piece of tissue: (n, 2) places in µm and (n,) domains."""
    _, plane, pitch = lay_lattice(int(np.ceil(n_obs / (1 - _EMPTY))))
    angle, radius = rng.uniform(0, 2 * np.pi, len(plane)), _JITTER * np.sqrt(rng.random(len(plane)))
    plane += np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    position = plane * pitch
    across, outside = bend(position, rng)
    density = smooth_field(position, rng, wavelength=0.6)
    outside[rng.random(len(outside)) < _EMPTY * np.exp(0.5 * density - 0.125)] = np.inf
    kept = np.sort(np.argsort(outside, kind="stable")[:n_obs])
    plane, position, across = plane[kept], position[kept], across[kept]
    across += 0.015 * smooth_field(position, rng, wavelength=0.5)

    # Layers, by rank of depth: each has the number of cells asked for. Niches lie in the main one.
    main = _main(n_layers)
    layers = cells[:n_layers].copy()
    layers[main] += cells[n_layers:].sum()
    domain = np.empty(n_obs, dtype=np.int64)
    domain[np.argsort(across, kind="stable")] = np.repeat(np.arange(n_layers), layers)
    inside = np.flatnonzero(domain == main)
    middle = inside[np.argsort(across[inside], kind="stable")]
    middle = middle[len(middle) // 4 : -(len(middle) // 4)]
    centres = _spread(position[middle], _PATCHES * (len(cells) - n_layers), rng)
    for j, size in enumerate(cells[n_layers:]):
        distance, _ = cKDTree(centres[j :: len(cells) - n_layers]).query(position[inside])
        nearest = np.argsort(distance, kind="stable")[:size]
        domain[inside[nearest]] = n_layers + j
        inside = np.delete(inside, nearest)
    return (plane - plane.min(axis=0)) * _PITCH, domain


def _spread(position: _Floats, n_centres: int, rng: np.random.Generator) -> _Floats:
    """Take centres far from each other: the first at random, each next one farthest from all."""
    chosen = [int(rng.integers(len(position)))]
    distance = np.full(len(position), np.inf)
    while len(chosen) < n_centres:
        distance = np.minimum(distance, np.linalg.norm(position - position[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return position[chosen]


def _draw_types(composition: _Floats, rng: np.random.Generator) -> _Ints:
    """Draw the type of each cell from its (n, C) probabilities."""
    cumulative = np.cumsum(composition, axis=1)
    cumulative /= cumulative[:, -1:]
    drawn: _Ints = (rng.random((len(composition), 1)) >= cumulative).sum(axis=1)
    return drawn


def _draw_genes(n_genes: int, types: list[str], n_layers: int, rng: np.random.Generator) -> _Genes:
    """Divide the genes into modules and draw how strongly each responds."""
    sizes = dict.fromkeys(types, int(_MARKERS * n_genes / len(types)))
    sizes |= {"field": round(_FIELD * n_genes), "activity": round(_ACTIVITY * n_genes)}
    module = [name for name, size in sizes.items() for _ in range(max(1, size))]
    module += ["housekeeping"] * (n_genes - len(module))
    members = {name: np.flatnonzero(np.array(module) == name) for name in sizes}

    baseline = np.tile(0.8 * rng.standard_normal(n_genes), (len(types), 1))
    for c, name in enumerate(types):
        change = 2 * rng.gamma(4, 1 / 4, len(members[name]))
        baseline[c, members[name]] += change
        for near in (c - 1, c + 1):
            if c < n_layers and 0 <= near < n_layers:
                baseline[near, members[name]] += change / 2
    loadings = np.zeros((2, n_genes))
    field, activity = members["field"], members["activity"]
    loadings[0, field] = 0.5 * rng.standard_normal(len(field))
    loadings[1, activity] = 0.7 * rng.standard_normal(len(activity))
    return _Genes(
        module=module,
        baseline=baseline,
        loadings=loadings,
        size=4 * np.exp(0.4 * rng.standard_normal(n_genes)),
    )


def _draw_counts(
    places: _Floats, cell_type: _Ints, depth: _Floats, genes: _Genes, rng: np.random.Generator
) -> list[sparse.csr_matrix]:
    """Draw the counts of one section, some rows at a time; (C,) log depth of each type."""
    n_obs, n_genes = len(cell_type), genes.baseline.shape[1]
    size = np.ptp(places, axis=0).max()
    field = smooth_field(places / size, rng, wavelength=0.9)
    state = np.column_stack([field, rng.standard_normal(n_obs)])
    library = _COUNTS_PER_CELL * np.exp(depth[cell_type] + 0.4 * rng.standard_normal(n_obs))

    chunks = []
    step = max(1, _CHUNK_ENTRIES // n_genes)
    for start in range(0, n_obs, step):
        rows = slice(start, start + step)
        mean = np.exp(genes.baseline[cell_type[rows]] + state[rows] @ genes.loadings)
        mean *= (library[rows] / mean.sum(axis=1))[:, None]
        counts = draw_negative_binomial(mean, genes.size, rng)
        chunks.append(sparse.csr_matrix(counts, dtype=np.float32))
    return chunks
