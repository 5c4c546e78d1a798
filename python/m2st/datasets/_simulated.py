"""A simulated cortex: layered tissue with planted domains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from m2st import _keys
from m2st._checks import check_int, check_interval, check_seed

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

# Geometry. Lengths without a unit are relative to the side of a square of the tissue's area.
_PIXELS_PER_PITCH = 200.0  # neighbouring spots are 100 µm apart, a full-resolution pixel is 0.5 µm
_SPOT_DIAMETER = 0.55  # pitches
_ROW_HEIGHT = np.sqrt(0.75)  # pitches between two rows of a hexagonal lattice
_GREY_THICKNESS = (1.1, 1.2, 2.1, 1.0, 1.6, 1.5)  # from the surface inwards, repeated as needed
_WHITE_THICKNESS = 1.7

# Expression. Logarithms are natural.
_N_CELL_TYPES = 4  # cell types that are found in every layer
_N_PROGRAMS = 4  # gene programs whose activity differs between spots, whatever the layer
_LAYER_SHARE = 0.5  # share of the layers' own cell types in a spot
_LEAK = 0.15  # abundance of a layer's own cell type in the layers next to it
_CONCENTRATION = 10.0  # of the Dirichlet distribution of cell types
_COUNTS_PER_GENE = 1.1
_DROPOUT = 0.3
_CHUNK_ENTRIES = 2_000_000  # spots × genes that are dense at a time


class _Section(NamedTuple):
    """Where the n spots of one section lie."""

    lattice: _Ints  # (n, 2): array row and column
    pixels: _Floats  # (n, 2): x and y
    position: _Floats  # (n, 2), relative to the tissue's size
    depth: _Floats  # (n,): 0 at the surface, 1 at the bottom
    domain: _Ints  # (n,)
    membership: _Floats  # (n, K): share of each layer in a spot, rows sum to 1


class _Genes(NamedTuple):
    """What sets the expression of the G genes."""

    module: list[str]
    baseline: _Floats  # (G,)
    cell_types: _Floats  # (K + _N_CELL_TYPES, G): log fold change in each cell type
    loadings: _Floats  # (2 + _N_PROGRAMS, G): response to depth, tissue field and programs
    size: _Floats  # (G,): θ of the negative binomial, variance μ + μ²/θ


def simulate_cortex(
    n_obs: int = 2000,
    n_genes: int = 2000,
    n_domains: int = 7,
    *,
    difficulty: float = 0.5,
    n_samples: int = 1,
    batch_shift: float = 0.0,
    random_state: int = 0,
) -> AnnData:
    r"""Simulate sections of a layered tissue on a Visium lattice, with the true layers.

    Each section is a curved piece of cortex: grey layers of unequal thickness above white matter,
    an irregular outline, a hole and a few missing spots. Spot :math:`i` of section :math:`s`, at
    depth :math:`t_i \in [0, 1]`, belongs to layer :math:`k` with the membership

    .. math::

        \pi_{ik} = F_{i,k-1} - F_{ik}, \qquad
        F_{ik} = \operatorname{logit}^{-1}\{(t_i - b_k) / h_k\}, \qquad F_{i0} = 1,\ F_{iK} = 0,

    (set to 0 where negative, then scaled to sum 1), where :math:`b_k` is the depth of the border
    below layer :math:`k` and its width :math:`h_k` is 0.1/K at smooth borders and 0.02/K at sharp
    ones. Smooth and sharp borders alternate; the one to the white matter is sharp. The planted
    domain is the layer between whose borders :math:`t_i` lies. Counts follow

    .. math::

        p_i &\sim \operatorname{Dirichlet}\Big(10 \textstyle\sum_k \pi_{ik} a_k\Big) \\
        \lambda_{ig} &= \Big(\textstyle\sum_c p_{ic} e^{T_{cg}}\Big)
            \exp\{\beta_g + B_{sg} + (2 t_i - 1) D_g + f_i S_g + \textstyle\sum_r z_{ir} R_{rg}\} \\
        \mu_{ig} &= \ell_i \lambda_{ig} / \textstyle\sum_{g'} \lambda_{ig'}, \qquad
        \ell_i = 1.1\,G \exp(0.25\, d_i + 0.3\, \varepsilon_i) \\
        y_{ig} &\sim \operatorname{NB}(\text{mean } \mu_{ig},
            \text{variance } \mu_{ig} + \mu_{ig}^2 / \theta_g),
            \text{ set to 0 with probability } 0.3\, e^{-\mu_{ig}}

    =========================  =====================================================================
    :math:`a_k`                abundance of K + 4 cell types in layer k, sum 1: one half for the
                               types of layers k, k - 1 and k + 1, as 1 : 0.15 : 0.15; one half for
                               four types that are equally common everywhere
    :math:`T_{cg}`             log fold changes of the marker genes of cell type c, Gamma(4) with
                               mean 1.3 (layers) and 1 (common types), otherwise 0; every second
                               marker of a layer also marks the layer below it (for white matter
                               the one above), with 0.8 times the value
    :math:`\beta_g, B_{sg}`    baseline, N(0, 1.1²); batch shift of the section, N(0, batch_shift²)
    :math:`D_g`                response to depth, N(0, 0.4²): gradients across the layers
    :math:`f_i, S_g`           smooth random field over the section, unrelated to the layers, mean 0
                               and variance 1; response to it, N(0, 0.4²)
    :math:`z_{ir}, R_{rg}`     activity of four gene programs (such as stress, blood, mitochondria),
                               N(0, 1) and independent in each spot; response, Gamma(4), mean 0.75
    :math:`\ell_i, d_i`        library size; smooth random field as f; :math:`\varepsilon` ~ N(0, 1)
    :math:`\theta_g`           6 · lognormal(0, 0.4²)
    =========================  =====================================================================

    15 % of the genes mark layers, 5 % respond to depth, 5 % to the field. 8 % mark the common cell
    types and 10 % belong to the programs. The others have only their baseline.

    Parameters
    ----------
    n_obs
        Number of spots over all sections, met exactly; sections differ by one spot at most. At
        least ten spots per domain and section.
    n_genes
        Number of genes, at least ten per domain. The library sizes grow with it: about 1.1 counts
        per gene and spot.
    n_domains
        Number of layers, white matter included, at least two.
    difficulty
        In [0, 1]. Effects of the layers (:math:`T` of their cell types, :math:`D`) are multiplied
        by ``2 * (1 - difficulty)``. Unrelated effects (:math:`T` of the common cell types,
        :math:`S`, :math:`R`) are multiplied by ``2 * difficulty``. At 0, only the mixture of cell
        types and counting noise disturb the layers. At 1, the counts do not depend on the layers.
    n_samples
        Number of sections. Genes behave the same in all of them. Shape, orientation and thickness
        of layers differ. Their pixel coordinates overlap, as in real data.
    batch_shift
        Standard deviation over genes of a shift, from 0 to 5. Each section, also a single one, adds
        this shift to the log expression of each gene.
    random_state
        Seed. The same seed gives the same bits; no random state of the caller is touched.

    Returns
    -------
    AnnData of `n_obs` spots and `n_genes` genes with

    - ``X``: counts, CSR matrix of float32
    - ``obs["domain"]``: the planted layer, ordered categorical, ``"L1"``, ``"L2"``, .., ``"WM"``
    - ``obs["sample"]``: the section, categorical, ``"section1"``, ``"section2"``, ..
    - ``obs["in_tissue"]``, ``obs["array_row"]``, ``obs["array_col"]``: int64, as Space Ranger
    - ``var["module"]``: what the gene responds to, categorical: the name of the layer that it
      marks, ``"gradient"``, ``"field"``, ``"cells1"`` .. ``"cells4"``, ``"program1"`` ..
      ``"program4"``, or ``"housekeeping"``
    - ``obsm["spatial"]``: float64 (n_obs, 2), x and y in full-resolution pixels, y downwards
    - ``uns["spatial"]``: scale factors of each section in scanpy's layout, without images
    - ``uns["simulation"]``: the arguments of this call

    Raises
    ------
    TypeError
        If an argument is not a number of the kind expected.
    ValueError
        If an argument is out of its range.

    Notes
    -----
    Geometry is relative to the size of the tissue: more spots sample the same picture more finely.
    These adjusted Rand indices hold for the default arguments, and a test checks them. k-means on
    principal components without space has less than 0.35. k-means on components averaged over three
    hops of the lattice has 0.45 to 0.75. A linear classifier that has seen the true layers reaches
    0.9 from the same averages.

    Counts are drawn in chunks. Memory beside the result grows with ``n_obs``, not with ``n_obs *
    n_genes``. While the chunks are joined, there is one copy of the result.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(500, 200, n_domains=4)
    >>> adata.shape
    (500, 200)
    >>> list(adata.obs["domain"].cat.categories)
    ['L1', 'L2', 'L3', 'WM']
    """
    check_int("n_domains", n_domains, minimum=2)
    check_int("n_samples", n_samples, minimum=1)
    check_int("n_obs", n_obs, minimum=10 * n_domains * n_samples)
    check_int("n_genes", n_genes, minimum=10 * n_domains)
    check_interval("difficulty", difficulty, 0, 1)
    check_interval("batch_shift", batch_shift, 0, 5)
    random_state = check_seed(random_state)

    layers = [f"L{k}" for k in range(1, n_domains)] + ["WM"]
    samples = [f"section{s}" for s in range(1, n_samples + 1)]
    sizes = [n_obs // n_samples + (s < n_obs % n_samples) for s in range(n_samples)]
    gene_rng, *section_rngs = np.random.default_rng(random_state).spawn(1 + n_samples)
    genes = _draw_genes(n_genes, layers, difficulty=difficulty, rng=gene_rng)

    sections, counts = [], []
    for size, rng in zip(sizes, section_rngs, strict=True):
        section = _draw_section(size, n_domains, rng)
        shifted = genes._replace(
            baseline=genes.baseline + batch_shift * rng.standard_normal(n_genes)
        )
        sections.append(section)
        counts += _draw_counts(section, shifted, rng)

    sample = np.repeat(np.arange(n_samples), sizes)
    lattice = np.concatenate([section.lattice for section in sections])
    obs = pd.DataFrame(
        {
            "in_tissue": np.ones(n_obs, dtype=np.int64),
            "array_row": lattice[:, 0],
            "array_col": lattice[:, 1],
            "sample": pd.Categorical.from_codes(sample, samples),
            "domain": pd.Categorical.from_codes(
                np.concatenate([section.domain for section in sections]), layers, ordered=True
            ),
        },
        index=[f"{samples[s]}_{row}x{col}" for s, (row, col) in zip(sample, lattice, strict=True)],
    )
    var = pd.DataFrame(
        {"module": pd.Categorical(genes.module, categories=list(dict.fromkeys(genes.module)))},
        index=[f"gene{g}" for g in range(1, n_genes + 1)],
    )
    pixels = [section.pixels for section in sections]
    uns = {
        "spatial": {
            name: {
                "images": {},
                "metadata": {},
                "scalefactors": {
                    "spot_diameter_fullres": _SPOT_DIAMETER * _PIXELS_PER_PITCH,
                    "tissue_hires_scalef": 2000 / float(xy.max() + _PIXELS_PER_PITCH),
                },
            }
            for name, xy in zip(samples, pixels, strict=True)
        },
        "simulation": {
            "function": "m2st.datasets.simulate_cortex",
            "n_obs": int(n_obs),
            "n_genes": int(n_genes),
            "n_domains": int(n_domains),
            "difficulty": float(difficulty),
            "n_samples": int(n_samples),
            "batch_shift": float(batch_shift),
            "random_state": random_state,
        },
    }
    return AnnData(
        sparse.vstack(counts, format="csr"),
        obs=obs,
        var=var,
        obsm={_keys.COORDINATES: np.concatenate(pixels)},
        uns=uns,
    )


def smooth_field(position: _Floats, rng: np.random.Generator, *, wavelength: float) -> _Floats:
    """Sum of eight plane waves in random directions, scaled to mean 0 and variance 1."""
    field = np.zeros(len(position))
    for _ in range(8):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        omega = 2 * np.pi / wavelength * rng.uniform(0.6, 1.0)
        field += np.cos(omega * (position @ (np.cos(angle), np.sin(angle))) + phase)
    standard: _Floats = (field - field.mean()) / field.std()
    return standard


def lay_lattice(n_obs: int) -> tuple[_Ints, _Floats, float]:
    """Lay a hexagonal lattice around 0 with `n_obs` places in an area of 1, and a margin.

    Returns
    -------
    (n, 2) row and column of the lattice; (n, 2) x and y in pitches; the pitch.
    """
    pitch = float(1 / np.sqrt(n_obs * _ROW_HEIGHT))
    half = int(np.ceil(0.9 / (pitch * _ROW_HEIGHT)))  # rows from the centre to the frame's edge
    row, col = np.meshgrid(
        np.arange(-half, half + 1), np.arange(-2 * half, 2 * half + 1), indexing="ij"
    )
    on_lattice = (row + col) % 2 == 0
    lattice = np.column_stack([row[on_lattice], col[on_lattice]])
    return lattice, np.column_stack([lattice[:, 1] / 2, lattice[:, 0] * _ROW_HEIGHT]), pitch


def bend(position: _Floats, rng: np.random.Generator) -> tuple[_Floats, _Floats]:
    """Bend a piece of layered tissue with a rough outline and a hole over (n, 2) places.

    Returns
    -------
    (n,) coordinate across the layers; (n,) distance from the middle, infinite in the hole: the
    tissue is where it is small.
    """
    # Coordinates along and across the layers: arcs around a centre below the tissue.
    angle, radius = rng.uniform(-0.5, 0.5), rng.uniform(1.2, 2.0)
    x = position @ (np.cos(angle), -np.sin(angle))
    below = radius - position @ (np.sin(angle), np.cos(angle))
    along = radius * np.arctan2(x, below)
    across = radius - np.hypot(x, below) + 0.03 * smooth_field(position, rng, wavelength=0.7)

    # The tissue is a rounded rectangle in these coordinates with a rough outline.
    outside = ((along / 0.52) ** 6 + (across / 0.5) ** 6) ** (1 / 6)
    outside += 0.03 * smooth_field(position, rng, wavelength=0.25)
    hole_along, hole_across = rng.uniform(-0.25, 0.25, 2)
    in_hole = np.hypot((along - hole_along) / 0.09, (across - hole_across) / 0.04) < 1
    outside[in_hole] = np.inf
    return across, outside


def _draw_section(n_obs: int, n_domains: int, rng: np.random.Generator) -> _Section:
    """Lay a bent piece of tissue over a hexagonal lattice and cut it into layers."""
    lattice, plane, pitch = lay_lattice(n_obs)
    position = plane * pitch
    across, outside = bend(position, rng)
    outside[rng.random(len(outside)) < 0.01] = np.inf
    kept = np.sort(np.argsort(outside, kind="stable")[:n_obs])
    lattice, plane, position, across = lattice[kept], plane[kept], position[kept], across[kept]

    # Layers, by rank of depth: each has its share of the spots, so none is empty.
    across = across + 0.015 * smooth_field(position, rng, wavelength=0.5)
    depth = (across - across.min()) / np.ptp(across)
    thickness = np.append(np.resize(_GREY_THICKNESS, n_domains - 1), _WHITE_THICKNESS)
    thickness = thickness * np.exp(0.1 * rng.standard_normal(n_domains))
    cuts = np.rint(np.cumsum(thickness[:-1]) / thickness.sum() * n_obs).astype(np.int64)
    ordered = np.sort(depth)
    borders = (ordered[cuts - 1] + ordered[cuts]) / 2
    sharp = (n_domains - 2 - np.arange(n_domains - 1)) % 2 == 0
    below_border = expit((depth[:, None] - borders) / (np.where(sharp, 0.02, 0.1) / n_domains))
    membership = -np.diff(below_border, axis=1, prepend=1, append=0).clip(max=0)

    lattice -= lattice.min(axis=0)
    lattice[:, 1] += lattice[0].sum() % 2  # row + column stays even
    corner = 1 + rng.random(2)  # pitches
    return _Section(
        lattice=lattice,
        pixels=(plane - plane.min(axis=0) + corner) * _PIXELS_PER_PITCH,
        position=position,
        depth=depth,
        domain=np.searchsorted(borders, depth),
        membership=membership / membership.sum(axis=1, keepdims=True),
    )


def _draw_genes(
    n_genes: int, layers: list[str], *, difficulty: float, rng: np.random.Generator
) -> _Genes:
    """Divide the genes into modules and draw how strongly each responds."""
    signal, nuisance = 2 * (1 - difficulty), 2 * difficulty
    n_layers = len(layers)
    shares = dict.fromkeys(layers, 0.15 / n_layers)
    shares |= {"gradient": 0.05, "field": 0.05}
    shares |= {f"cells{c}": 0.02 for c in range(1, _N_CELL_TYPES + 1)}
    shares |= {f"program{r}": 0.025 for r in range(1, _N_PROGRAMS + 1)}
    module = [name for name, share in shares.items() for _ in range(max(1, round(share * n_genes)))]
    module += ["housekeeping"] * (n_genes - len(module))
    members = {name: np.flatnonzero(np.array(module) == name) for name in shares}

    def positive(name: str) -> _Floats:
        """Draw effects with mean 1 and standard deviation 1/2, one per gene of a module."""
        return rng.gamma(4, 1 / 4, len(members[name]))

    cell_types = np.zeros((n_layers + _N_CELL_TYPES, n_genes))
    loadings = np.zeros((2 + _N_PROGRAMS, n_genes))
    for k, name in enumerate(layers):
        effect = signal * 1.3 * positive(name)
        cell_types[k, members[name]] = effect
        neighbour = k + 1 if k + 1 < n_layers else k - 1
        cell_types[neighbour, members[name][::2]] = 0.8 * effect[::2]
    for c in range(_N_CELL_TYPES):
        name = f"cells{c + 1}"
        cell_types[n_layers + c, members[name]] = nuisance * positive(name)
    for r in range(_N_PROGRAMS):
        name = f"program{r + 1}"
        loadings[2 + r, members[name]] = nuisance * 0.75 * positive(name)
    gradient, field = members["gradient"], members["field"]
    loadings[0, gradient] = signal * 0.4 * rng.standard_normal(len(gradient))
    loadings[1, field] = nuisance * 0.4 * rng.standard_normal(len(field))
    return _Genes(
        module=module,
        baseline=1.1 * rng.standard_normal(n_genes),
        cell_types=cell_types,
        loadings=loadings,
        size=6 * np.exp(0.4 * rng.standard_normal(n_genes)),
    )


def _draw_counts(
    section: _Section, genes: _Genes, rng: np.random.Generator
) -> list[sparse.csr_matrix]:
    """Draw the counts of one section, some rows at a time."""
    n_obs, n_layers = section.membership.shape
    n_genes = len(genes.baseline)
    own = np.eye(n_layers) + _LEAK * (np.eye(n_layers, k=1) + np.eye(n_layers, k=-1))
    own *= _LAYER_SHARE / own.sum(axis=1, keepdims=True)
    common = np.full((n_layers, _N_CELL_TYPES), (1 - _LAYER_SHARE) / _N_CELL_TYPES)
    abundance = section.membership @ np.hstack([own, common])
    proportions = rng.standard_gamma(_CONCENTRATION * abundance)
    proportions /= proportions.sum(axis=1, keepdims=True)
    activity = np.column_stack(
        [
            2 * section.depth - 1,
            smooth_field(section.position, rng, wavelength=0.9),
            rng.standard_normal((n_obs, _N_PROGRAMS)),
        ]
    )
    log_library = 0.25 * smooth_field(section.position, rng, wavelength=0.7)
    log_library += 0.3 * rng.standard_normal(n_obs)
    library = _COUNTS_PER_GENE * n_genes * np.exp(log_library)

    chunks = []
    step = max(1, _CHUNK_ENTRIES // n_genes)
    for start in range(0, n_obs, step):
        rows = slice(start, start + step)
        mean = proportions[rows] @ np.exp(genes.cell_types)
        mean *= np.exp(genes.baseline + activity[rows] @ genes.loadings)
        mean *= (library[rows] / mean.sum(axis=1))[:, None]
        counts = draw_negative_binomial(mean, genes.size, rng)
        counts[rng.random(mean.shape) < _DROPOUT * np.exp(-mean)] = 0
        chunks.append(sparse.csr_matrix(counts, dtype=np.float32))
    return chunks


def draw_negative_binomial(mean: _Floats, size: _Floats, rng: np.random.Generator) -> _Ints:
    """Draw counts with the (n, G) mean μ and the variance μ + μ² / θ, θ the (G,) sizes."""
    counts: _Ints = rng.poisson(rng.standard_gamma(size, mean.shape) * (mean / size))
    return counts
