"""Peers on the same counts, each by its own documented defaults, the number of domains given.

A method needs an environment of its own, which need hold m2st for BANKSY only: Python 3.11 with

    pip install torch==2.13.0 torch-geometric GraphST stagate-modern SpaGCN louvain \
        scanpy POT scikit-misc "setuptools<81"
    pip install torch==2.13.0 scvi-tools cellcharter scikit-misc    # for CellCharter
    pip install . pybanksy    # for BANKSY

and R with mclust (called by GraphST and STAGATE), Seurat and BayesSpace; on Debian
`apt install r-cran-mclust r-cran-seurat`, BayesSpace 1.15 or newer from Bioconductor. STAGATE is
STAGATE_pyG as packaged in stagate-modern: the same network without torch-sparse. From the root of
the repository:

    python -m benchmarks.peers --method GraphST [--data dlpfc_151673] [--seeds 3]

Adds a line per run to peers.csv beside this file. Finished runs are not run again, nor are failed
ones, whose `ari` is empty and whose reason is in `note`: delete the line to try again. Labels are
seen by the score alone, and unannotated observations take part in the run.
"""

from __future__ import annotations

import os

# One thread, as in accuracy.py.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import csv
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import scipy.io
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from benchmarks.data import FILES, Case, folder, load
from benchmarks.stamp import stamp

RUNS = Path(__file__).parent / "peers.csv"
COLUMNS = ["data", "method", "seed", "ari", "seconds", "version", "note", "made"]

Labels = np.ndarray
Found = dict[str, Labels]  # a row of the table each


def blind(case: Case) -> anndata.AnnData:
    """What a peer sees: counts, log values where there are no counts, or scores, and places."""
    if case.use_rep is None:
        return case.adata.copy()
    scores = anndata.AnnData(np.asarray(case.adata.X, dtype=np.float32)[:, :50])
    scores.obs_names = case.adata.obs_names
    scores.obsm["spatial"] = case.adata.obsm["spatial"]
    return scores


def has_counts(case: Case) -> bool:
    return case.use_rep is None and not case.normalized


def lattice(case: Case) -> str | None:
    """Name of the spot lattice, as BayesSpace calls it; none for imaged cells."""
    names = {"dlpfc": "Visium", "her2st": "ST"}
    return next((names[start] for start in names if case.name.startswith(start)), None)


def log_normalized(case: Case, n_genes: int | None) -> anndata.AnnData:
    """Scanpy's usual start: variable genes from counts, 10,000 counts each, log."""
    import scanpy as sc

    adata = blind(case)
    if has_counts(case):
        if n_genes is not None and adata.n_vars > n_genes:
            sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes)
            adata = adata[:, adata.var["highly_variable"]].copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    return adata


def run_r(code: str, seed: int, **inputs: np.ndarray | sp.spmatrix | int | str) -> Labels:
    """Labels that R code leaves in `labels`; the inputs are its variables, and so is the seed."""
    lines = ["suppressPackageStartupMessages({library(methods); library(Matrix)})"]
    with tempfile.TemporaryDirectory() as place:
        for name, value in inputs.items():
            file = f"{name}.mtx"
            if isinstance(value, int):
                lines.append(f"{name} <- {value}L")
            elif isinstance(value, str):
                lines.append(f"{name} <- '{value}'")
            elif sp.issparse(value):
                scipy.io.mmwrite(Path(place) / file, sp.coo_matrix(value))
                lines.append(f"{name} <- as(readMM('{file}'), 'CsparseMatrix')")
            else:
                np.savetxt(Path(place) / file, value)
                lines.append(f"{name} <- as.matrix(unname(read.table('{file}')))")
        lines += [
            f"seed <- {seed}L; set.seed(seed)",
            code,
            "writeLines(as.character(labels), 'labels')",
        ]
        (Path(place) / "run.R").write_text("\n".join(lines), encoding="utf-8")
        done = subprocess.run(
            ["Rscript", "run.R"], cwd=place, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-200:])
        return np.array((Path(place) / "labels").read_text(encoding="utf-8").split())


def r_version(package: str) -> str:
    done = subprocess.run(
        ["Rscript", "-e", f"cat(as.character(packageVersion('{package}')))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def mclust(scores: np.ndarray, n_domains: int, seed: int) -> Labels:
    """The mixture of mclust with one shared covariance, as GraphST and STAGATE call it."""
    code = """
    library(mclust)
    labels <- Mclust(scores, G = n_domains, modelNames = "EEE", verbose = FALSE)$classification
    """
    return run_r(code, seed, scores=scores, n_domains=n_domains)


def graphst(case: Case, seed: int) -> Found:
    """Tutorial "10X Visium"; labels refined over 50 neighbours on the DLPFC alone, as there."""
    import scanpy as sc
    from GraphST.GraphST import GraphST
    from GraphST.utils import refine_label
    from sklearn.decomposition import PCA

    adata = blind(case)
    if not has_counts(case):  # its own preparation starts from counts
        adata.var["highly_variable"] = True
        if case.normalized:
            sc.pp.scale(adata, zero_center=False, max_value=10)
    model = GraphST(adata, random_seed=seed)
    model.adj = model.adj.to_sparse()  # the same sums, without the zeros
    adata = model.train()
    scores = PCA(n_components=20, random_state=42).fit_transform(adata.obsm["emb"])
    raw = mclust(scores, case.n_domains, seed)
    adata.obs["domain"] = raw
    refined = np.array(refine_label(adata, radius=50, key="domain"))
    return {
        "GraphST": refined if lattice(case) == "Visium" else raw,
        "GraphST, never refined": raw,
        "GraphST, always refined": refined,
    }


def stagate_graph(adata: anndata.AnnData) -> anndata.AnnData:
    """The data with STAGATE's graph."""
    from sklearn.neighbors import NearestNeighbors
    from STAGATE_pyG import Cal_Spatial_Net

    # The tutorials give a radius for each data set. This one gives 150 on 151673, as theirs.
    places = adata.obsm["spatial"]
    sixth = NearestNeighbors(n_neighbors=6).fit(places).kneighbors()[0][:, -1]
    Cal_Spatial_Net(adata, rad_cutoff=1.1 * np.median(sixth))
    return adata


def stagate(case: Case, seed: int) -> Found:
    """Tutorials of STAGATE: 3,000 variable genes, a radius of about six neighbours, mclust."""
    from STAGATE_pyG import train_STAGATE

    adata = stagate_graph(log_normalized(case, 3000))
    adata = train_STAGATE(adata, random_seed=seed, verbose=False)
    return {"STAGATE": mclust(adata.obsm["STAGATE"], case.n_domains, seed)}


def bayesspace(case: Case, seed: int) -> Found:
    """Its defaults on a lattice, but 10,000 iterations: what the vignette asks for at least."""
    if lattice(case) is None:
        msg = "needs a lattice of spots"
        raise ValueError(msg)
    obs = anndata.read_h5ad(folder() / FILES[case.name], backed="r").obs
    code = """
    library(BayesSpace)
    places <- data.frame(array_row = places[, 1], array_col = places[, 2])
    if (has_counts) {
        rownames(x) <- paste0("gene", seq_len(nrow(x)))
        sce <- SingleCellExperiment(list(counts = x), colData = places)
        sce <- spatialPreprocess(sce, platform = platform)
    } else {
        none <- Matrix(0, 1, nrow(places), sparse = TRUE)
        sce <- SingleCellExperiment(list(counts = none), colData = places,
                                    reducedDims = list(PCA = t(as.matrix(x))))
        sce <- spatialPreprocess(sce, platform = platform, skip.PCA = TRUE, log.normalize = FALSE)
    }
    sce <- spatialCluster(sce, q = n_domains, platform = platform, nrep = 10000)
    labels <- sce$spatial.cluster
    """
    labels = run_r(
        code,
        seed,
        x=sp.csr_matrix(blind(case).X).T,
        places=obs[["array_row", "array_col"]].to_numpy(),
        platform=str(lattice(case)),
        n_domains=case.n_domains,
        has_counts=int(has_counts(case)),
    )
    return {"BayesSpace": labels}


def seurat(case: Case, seed: int) -> Found:
    """Vignette on spatial data: SCTransform, 30 components, resolution bisected to K clusters."""
    code = """
    suppressPackageStartupMessages(library(Seurat))
    dimnames(x) <- list(paste0("gene", seq_len(nrow(x))), paste0("spot", seq_len(ncol(x))))
    object <- CreateSeuratObject(x)
    if (kind == "counts") {
        object <- SCTransform(object, seed.use = seed, verbose = FALSE)
    } else {
        VariableFeatures(object) <- rownames(object)
        object <- ScaleData(object, do.scale = kind == "log values", verbose = FALSE)
    }
    d <- min(30L, nrow(object) - 1L)
    object <- RunPCA(object, npcs = d, approx = d < nrow(object) / 2, seed.use = seed,
                     verbose = FALSE)
    object <- FindNeighbors(object, dims = seq_len(d), verbose = FALSE)
    low <- 0; high <- 4
    for (i in 1:30) {
        middle <- (low + high) / 2
        labels <- FindClusters(object, resolution = middle, random.seed = seed,
                               verbose = FALSE)$seurat_clusters
        if (nlevels(labels) == n_domains) break
        if (nlevels(labels) < n_domains) low <- middle else high <- middle
    }
    """
    kind = "scores" if case.use_rep else "log values" if case.normalized else "counts"
    x = sp.csr_matrix(blind(case).X).T
    return {"Seurat": run_r(code, seed, x=x, kind=kind, n_domains=case.n_domains)}


def banksy(case: Case, seed: int) -> Found:
    """As `m2st compare` runs it: notebooks on DLPFC (lattices) and STARmap (cells)."""
    from m2st.compare import banksy_domains

    share, n_neighbors, max_m = (0.2, 6, 0) if lattice(case) else (0.8, 15, 1)
    labels = banksy_domains(
        blind(case),
        case.n_domains,
        n_neighbors=n_neighbors,
        share=share,
        max_m=max_m,
        random_state=seed,
        counts=has_counts(case),
    )
    return {"BANKSY": labels}


def cellcharter(case: Case, seed: int) -> Found:
    """Tutorial: scVI on counts, three layers of Delaunay neighbours, mixture of Gaussians."""
    import cellcharter as cc
    import scanpy as sc
    import squidpy as sq

    adata = blind(case)
    if has_counts(case):
        import scvi

        sc.pp.filter_genes(adata, min_cells=3)
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(adata)
        model = scvi.model.SCVI(adata)
        model.train(early_stopping=True, enable_progress_bar=False, accelerator="cpu")
        adata.obsm["latent"] = model.get_latent_representation().astype(np.float32)
    elif case.normalized:
        adata.obsm["latent"] = sc.pp.pca(adata.X.toarray(), n_comps=10)  # as wide as scVI's
    else:
        adata.obsm["latent"] = adata.X
    sq.gr.spatial_neighbors(adata, coord_type="generic", delaunay=True)
    cc.gr.remove_long_links(adata)
    cc.gr.aggregate_neighbors(adata, n_layers=3, use_rep="latent", out_key="X_cellcharter")
    model = cc.tl.Cluster(n_clusters=case.n_domains, random_state=seed)
    model.fit(adata, use_rep="X_cellcharter")
    return {"CellCharter": np.asarray(model.predict(adata, use_rep="X_cellcharter"))}


def spagcn(case: Case, seed: int) -> Found:
    """Tutorial without histology: p = 0.5, Louvain start; refined on lattices, as there."""
    import random

    import SpaGCN as spg
    import torch

    adata = blind(case)
    x, y = adata.obsm["spatial"].astype(np.float32).T.tolist()
    adjacency = spg.calculate_adj_matrix(x=x, y=y, histology=False)
    if has_counts(case):
        spg.prefilter_genes(adata, min_cells=3)
        spg.prefilter_specialgenes(adata)
        import scanpy as sc

        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    if sp.issparse(adata.X):
        adata.X = adata.X.toarray()
    seeds = {"r_seed": seed, "t_seed": seed, "n_seed": seed}
    scale = spg.search_l(0.5, adjacency, start=0.01, end=1000, tol=0.01, max_run=100)
    resolution = spg.search_res(
        adata,
        adjacency,
        scale,
        case.n_domains,
        start=0.7,
        step=0.1,
        tol=5e-3,
        lr=0.05,
        max_epochs=20,
        **seeds,
    )
    model = spg.SpaGCN()
    model.set_l(scale)
    random.seed(seed)  # it draws from all three
    torch.manual_seed(seed)  # noqa: TID251
    np.random.seed(seed)  # noqa: NPY002, TID251
    model.train(
        adata,
        adjacency,
        init_spa=True,
        init="louvain",
        res=resolution,
        tol=5e-3,
        lr=0.05,
        max_epochs=200,
    )
    labels, _ = model.predict()
    if lattice(case):
        shape = {"Visium": "hexagon", "ST": "square"}[str(lattice(case))]
        names = adata.obs_names.tolist()
        labels = spg.refine(sample_id=names, pred=labels.tolist(), dis=adjacency, shape=shape)
    return {"SpaGCN": np.asarray(labels)}


@dataclass(frozen=True)
class Peer:
    """How a method runs, and which version ran."""

    run: Callable[[Case, int], Found]
    version: Callable[[], str]


METHODS = {
    "GraphST": Peer(graphst, lambda: version("GraphST")),
    "STAGATE": Peer(stagate, lambda: "stagate-modern " + version("stagate-modern")),
    "BayesSpace": Peer(bayesspace, lambda: r_version("BayesSpace")),
    "Seurat": Peer(seurat, lambda: r_version("Seurat")),
    "BANKSY": Peer(banksy, lambda: "pybanksy " + version("pybanksy")),
    "CellCharter": Peer(cellcharter, lambda: version("cellcharter")),
    "SpaGCN": Peer(spagcn, lambda: version("SpaGCN")),
}


def finished() -> set[tuple[str, str, int]]:
    if not RUNS.exists():
        return set()
    with RUNS.open(encoding="utf-8", newline="") as file:
        return {(row["data"], row["method"], int(row["seed"])) for row in csv.DictReader(file)}


def save(row: list[str]) -> None:
    """Append a line at once, so that methods may run side by side."""
    new = not RUNS.exists()
    with RUNS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)
    print(*row, flush=True)


def run_one(method: str, case: Case, seed: int) -> None:
    peer = METHODS[method]
    started = time.perf_counter()
    scored = case.truth.notna().to_numpy()
    try:
        found = peer.run(case, seed)
    except Exception as error:  # a peer that fails is a result too
        note = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        save([case.name, method, str(seed), "", "", peer.version(), note, stamp()])
        return
    seconds = f"{time.perf_counter() - started:.0f}"
    for name, labels in found.items():
        score = f"{adjusted_rand_score(case.truth[scored], labels[scored]):.4f}"
        n_found = len(np.unique(labels))
        note = "" if n_found == case.n_domains else f"{n_found} domains for {case.n_domains}"
        save([case.name, name, str(seed), score, seconds, peer.version(), note, stamp()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--data", choices=FILES, nargs="+", default=list(FILES))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers are written for older libraries
    done = finished()
    for seed in range(arguments.seeds):
        for name in arguments.data:
            if (name, arguments.method, seed) not in done:
                run_one(arguments.method, load(name), seed)


if __name__ == "__main__":
    main()
