"""The command ``m2st``."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import typer

from m2st import _keys
from m2st._checks import check_choice, check_target, importing, warn
from m2st._files import write_whole
from m2st._params import AutoencoderParams, ClusteringParams, DualParams, read_settings
from m2st._record import only_common

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from m2st._model import Model

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; a result that was saved all the same says so."""

_DASK_TIMEOUT = 10  # seconds
_SETTINGS = ", ".join([*AutoencoderParams.ranges, *ClusteringParams.ranges])
_OF_PAPER = ", ".join(DualParams.ranges)
_NO_WINDOW = "`m2st report` writes a page that needs no more than a browser."
_PICTURES = ("domains.png", "training.png")
_ARGUMENT = re.compile(
    r"`(batch_key|cell_type_key|key_added|label_key|layer|n_new|normalized|overwrite|pixel_size|reference|sample"
    r"|sample_key|spatial_key|table|to|use_rep)(?:=([^`]*))?`"
)
_CONVERTED = (".h5ad", ".zarr", ".rds", ".rda", ".rdata")

app = typer.Typer(
    help="Spatial domains from spatial transcriptomics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="h5ad, SpatialData zarr, rds; folder of Visium, Visium HD, Xenium, CosMx, MERSCOPE, "
        "Stereo-seq, Slide-seq, or of tables.",
    ),
]
Result = Annotated[
    Path, typer.Argument(metavar="RESULT", help="File that `m2st run` saved: h5ad, zarr, rds.")
]
Layer = Annotated[str | None, typer.Option(help="Layer that holds the counts.")]
SampleKey = Annotated[str | None, typer.Option(help="Column of obs that names the tissue section.")]
CellTypeKey = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of obs that names the cell types, a further view."),
]
Normalized = Annotated[
    bool, typer.Option("--normalized", help="Expression is normalised and on a log scale.")
]
OutputTable = Annotated[
    str | None, typer.Option(help="Table to write into a SpatialData store that has several.")
]
Plots = Annotated[Path | None, typer.Option(help="Folder for pictures (PNG).")]
SpatialKey = Annotated[
    str | None, typer.Option(help='Coordinates: a key of obsm, "spatial" by default.')
]
KeyAdded = Annotated[
    str, typer.Option(help="Name of the result: several live side by side in one file.")
]
Table = Annotated[
    str | None,
    typer.Option(help="What to read where INPUT holds several: table, bin size, region or file."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Read INPUT unchecked; R reads R objects, and may run code in them."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed; it fixes all bits on a CPU.")
]
Jobs = Annotated[int, typer.Option(help="Members to work on at a time; -1: one for each core.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def main() -> None:
    """Entry point of the command line."""
    app()


@app.command("run")
def run_command(
    input_path: Input,
    domains: Annotated[
        str, typer.Option("--domains", "-k", help="Number of domains, or auto to choose it.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="h5ad file to write, or SpatialData zarr.")
    ],
    table: Table = None,
    plots: Plots = None,
    csv: Annotated[
        Path | None, typer.Option(help="CSV file for the domains: name, domain, confidence.")
    ] = None,
    save_model: Annotated[
        Path | None, typer.Option(help="Folder for the fitted model, for `m2st apply`.")
    ] = None,
    layer: Layer = None,
    use_rep: Annotated[
        str | None, typer.Option(help="Ready features in place of counts: a key of obsm, or X.")
    ] = None,
    n_pcs: Annotated[
        int | None, typer.Option(min=1, help="Components of the expression or ready features.")
    ] = None,
    normalized: Normalized = False,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    batch_key: Annotated[
        str | None,
        typer.Option(help="Column of obs that names what is shifted: donor, slide or chemistry."),
    ] = None,
    cell_types: CellTypeKey = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The published method, whole: m2st.paper.run.")
    ] = False,
    members: Annotated[int | None, typer.Option(min=1, help="Models of the ensemble.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs to train.")] = None,
    scale_dims: Annotated[
        str | None, typer.Option(help="Widths of the scales, such as 64,32.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Observations in memory at a time, in training.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help=f"Any setting, such as tol=1e-4; once for each. There are {_SETTINGS}. "
            f"With --paper, those of the clustering are {_OF_PAPER}.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    jobs: Jobs = 1,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster that does the work."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File from which an interrupted training resumes.")
    ] = None,
    key_added: KeyAdded = _keys.DEFAULT,
    output_table: OutputTable = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the spatial domains of a data set and save it with the results."""
    first = int(os.environ.get("RANK", 0)) == 0  # of the processes that torchrun started
    quiet = quiet or not first
    with _one_line_errors(debug=debug, quiet=quiet) as saved:
        import m2st
        from m2st._nn._training import among_processes

        _check_output(input_path, output, overwrite=overwrite, suffixes=(".h5ad", ".zarr"))
        if csv is not None:
            _check_output(input_path, csv, overwrite=overwrite, suffixes=(".csv",))
        if plots is not None:
            _check_folder(plots, _PICTURES, overwrite=overwrite)
        _check_model_folder(save_model, output, overwrite=overwrite)
        if checkpoint is not None:
            check_target(Path(f"{checkpoint}.1"), (), overwrite=True)
        options = {
            "n_members": members,
            "n_epochs": epochs,
            "scale_dims": scale_dims,
            "batch_size": batch_size,
        }
        named = [f"{name}={value}" for name, value in options.items() if value is not None]
        base: tuple[AutoencoderParams, ClusteringParams | DualParams]
        base = (AutoencoderParams(), ClusteringParams())
        if paper:
            base = (m2st.paper.AUTOENCODER, DualParams())
        autoencoder, clustering = read_settings([*named, *(settings or [])], *base)
        if paper and (use_rep is not None or normalized):
            msg = "Expected neither `--use-rep` nor `--normalized` with `--paper`. Leave it out."
            raise ValueError(msg)
        if paper and batch_key is not None:
            msg = (
                "Expected no `--batch-key` with `--paper`, found both: the published method aligns "
                "nothing. Leave it out."
            )
            raise ValueError(msg)
        if paper and cell_types is not None:
            msg = (
                "Expected no `--cell-types` with `--paper`, found both: the published method has "
                "no view of them. Leave it out."
            )
            raise ValueError(msg)
        if paper and save_model is not None:
            msg = (
                "Expected no `--save-model` with `--paper`, found both: a model of the published "
                "method applies to no other section. Leave it out."
            )
            raise ValueError(msg)
        if dask is not None and jobs != 1:
            msg = f"Expected either `--jobs` or `--dask`, found {jobs} and {dask}. Leave one out."
            raise ValueError(msg)
        shared: dict[str, Any] = {
            "layer": layer,
            "spatial_key": spatial_key,
            "sample_key": sample_key,
            "random_state": seed,
            "device": device,
            "n_jobs": jobs,
            "progress": sys.stderr.isatty() and not quiet,
            "checkpoint": checkpoint,
            "key_added": key_added,
        }
        with _on_cluster(dask), among_processes():
            # What serves as features is needed as a whole, and zarr is written from memory.
            whole = use_rep == "X" or output.suffix.lower() == ".zarr"
            backed: Literal["auto", False] = False if whole else "auto"
            adata = m2st.io.read(input_path, table=table, backed=backed, trust=trust)
            m2st.io.check_writable(adata, output, table=output_table, key_added=key_added)
            if paper:
                model = m2st.paper.run(
                    adata,
                    cast("int", _n_domains(domains)),
                    autoencoder=autoencoder,
                    clustering=cast("DualParams", clustering),
                    **(shared if n_pcs is None else shared | {"n_pcs": n_pcs}),
                )
            else:
                model = m2st.run(
                    adata,
                    _n_domains(domains),
                    use_rep=use_rep,
                    n_pcs=n_pcs,
                    normalized=normalized,
                    batch_key=batch_key,
                    cell_type_key=cell_types,
                    autoencoder=autoencoder,
                    clustering=clustering,
                    **shared,
                )
        if not first:  # all processes end with the same result
            return
        m2st.io.write(adata, output, table=output_table, overwrite=overwrite)
        saved.append(output)
        if save_model is not None:
            model.save(save_model, overwrite=overwrite)
            saved.append(save_model)
        if csv is not None:
            m2st.io.export(adata, csv, "csv", key_added=key_added, overwrite=overwrite)
            saved.append(csv)
        found = _summary(adata, _keys.Keys(key_added))
        _say(f"{found}\nSaved {' and '.join(map(str, saved))}", quiet=quiet)
        if plots is not None:
            _save_plots(adata, plots, key_added=key_added)
        if adata.uns[key_added]["embed"]["stopped"] == "interrupted":
            raise typer.Exit(INTERRUPTED)


@app.command("apply")
def apply_command(
    model_path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="Folder that --save-model of `run` or `annotate` wrote."
        ),
    ],
    input_path: Input,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="h5ad file to write, or SpatialData zarr.")
    ],
    table: Table = None,
    plots: Plots = None,
    layer: Layer = None,
    normalized: Normalized = False,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    cell_types: CellTypeKey = None,
    jobs: Jobs = 1,
    key_added: KeyAdded = _keys.DEFAULT,
    output_table: OutputTable = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Place the observations of another section among the domains of a saved model."""
    with _one_line_errors(debug=debug, quiet=quiet) as saved:
        import m2st

        _check_output(input_path, output, overwrite=overwrite, suffixes=(".h5ad", ".zarr"))
        if plots is not None:
            _check_folder(plots, _PICTURES[:1], overwrite=overwrite)
        model = m2st.load(model_path)
        whole = model.use_rep == "X" or output.suffix.lower() == ".zarr"
        backed: Literal["auto", False] = False if whole else "auto"
        adata = m2st.io.read(input_path, table=table, backed=backed, trust=trust)
        m2st.io.check_writable(adata, output, table=output_table, key_added=key_added)
        model.apply(
            adata,
            layer=layer,
            normalized=normalized,
            spatial_key=spatial_key,
            sample_key=sample_key,
            cell_type_key=cell_types,
            n_jobs=jobs,
            key_added=key_added,
        )
        m2st.io.write(adata, output, table=output_table, overwrite=overwrite)
        saved.append(output)
        found = [f"Embedded by {model}"]
        if model.domains:
            found = _domains_in_words(adata, _keys.Keys(key_added))
        _say("\n".join([*found, f"Saved {output}"]), quiet=quiet)
        if plots is not None and model.domains:
            _save_plots(adata, plots, names=_PICTURES[:1], key_added=key_added)


@app.command()
def annotate(
    input_path: Input,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="h5ad file to write, or SpatialData zarr.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(help="Column of obs with the labels: of the reference if there is one."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Annotated file, folder of a model that --save-model wrote, or spatialLIBD. "
            "Without it the labels of INPUT are completed."
        ),
    ] = None,
    n_new: Annotated[int, typer.Option(help="Number of domains in INPUT that no label knows.")] = 0,
    save_model: Annotated[
        Path | None, typer.Option(help="Folder for the fitted model, for `m2st apply`.")
    ] = None,
    table: Table = None,
    plots: Plots = None,
    layer: Layer = None,
    normalized: Normalized = False,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    key_added: KeyAdded = _keys.DEFAULT,
    output_table: OutputTable = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Carry labels of annotated observations to all others."""
    with _one_line_errors(debug=debug, quiet=quiet) as saved:
        import m2st

        _check_output(input_path, output, overwrite=overwrite, suffixes=(".h5ad", ".zarr"))
        if plots is not None:
            _check_folder(plots, _PICTURES[:1], overwrite=overwrite)
        _check_model_folder(save_model, output, overwrite=overwrite)
        known: AnnData | Model | str | None = reference
        if reference is not None and reference != "spatialLIBD":
            parts = ("model.json", "arrays.safetensors")
            is_model = any((Path(reference) / part).is_file() for part in parts)
            known = m2st.load(reference) if is_model else m2st.io.read(Path(reference), trust=trust)
        adata = m2st.io.read(input_path, table=table, trust=trust)
        m2st.io.check_writable(adata, output, table=output_table, key_added=key_added)
        model = m2st.annotate(
            adata,
            labels,
            reference=known,
            n_new=n_new,
            layer=layer,
            normalized=normalized,
            spatial_key=spatial_key,
            sample_key=sample_key,
            key_added=key_added,
        )
        m2st.io.write(adata, output, table=output_table, overwrite=overwrite)
        saved.append(output)
        if save_model is not None:
            model.save(save_model, overwrite=overwrite)
            saved.append(save_model)
        found = _domains_in_words(adata, _keys.Keys(key_added))
        _say("\n".join([*found, f"Saved {' and '.join(map(str, saved))}"]), quiet=quiet)
        if plots is not None:
            _save_plots(adata, plots, names=_PICTURES[:1], key_added=key_added)


@app.command()
def convert(
    input_path: Annotated[
        Path,
        typer.Argument(metavar="IN", help="What `m2st run` reads, rda or RData."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="h5ad, zarr, rds, rda or RData.")],
    table: Table = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", help="Class in R: SpatialExperiment, SingleCellExperiment or Seurat."),
    ] = None,
    output_table: OutputTable = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Convert between AnnData, SpatialData and the objects of Bioconductor and Seurat."""
    with _one_line_errors(debug=debug, quiet=quiet):
        import m2st

        _check_output(input_path, output, overwrite=overwrite, suffixes=_CONVERTED)
        in_r = output.suffix.lower() in {".rds", ".rda", ".rdata"}
        if as_ is not None and not in_r:
            msg = f"Expected `--as` only with an .rds, .rda or .RData file, found {output}."
            raise ValueError(msg)
        if output_table is not None and output.suffix.lower() != ".zarr":
            msg = f"Expected `--output-table` only with a .zarr store, found {output}."
            raise ValueError(msg)
        adata = m2st.io.read(input_path, table=table, trust=trust)
        if in_r:
            m2st.interop.write_r(adata, output, as_, overwrite=overwrite)
        else:
            m2st.io.write(adata, output, table=output_table, overwrite=overwrite)
        _say(f"Saved {output}: {adata.n_obs} observations, {adata.n_vars} genes", quiet=quiet)


@app.command()
def export(
    input_path: Result,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, or SpatialData zarr.")
    ],
    to: Annotated[
        str, typer.Option(help="Format: csv, loupe, xenium-explorer, geojson or spatialdata.")
    ],
    table: Table = None,
    key_added: KeyAdded = _keys.DEFAULT,
    sample: Annotated[str | None, typer.Option(help="Section to write, all by default.")] = None,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Size of a pixel of the image in the unit of the coordinates, for geojson: 0.2125 "
            "for Xenium."
        ),
    ] = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the domains of a result for Loupe Browser, Xenium Explorer, QuPath or napari."""
    with _one_line_errors(debug=debug, quiet=quiet):
        import m2st
        from m2st._export import SUFFIXES

        check_choice("to", to, SUFFIXES)
        _check_output(input_path, output, overwrite=overwrite, suffixes=(SUFFIXES[to],))
        # Expression is needed only in a store.
        backed: Literal["auto", False] = False if to == "spatialdata" else "auto"
        m2st.io.export(
            m2st.io.read(input_path, table=table, backed=backed, trust=trust),
            output,
            to,
            key_added=key_added,
            sample=sample,
            sample_key=sample_key,
            spatial_key=spatial_key,
            pixel_size=pixel_size,
            overwrite=overwrite,
        )
        _say(f"Saved {output}", quiet=quiet)


@app.command()
def view(
    input_path: Result,
    table: Table = None,
    key_added: KeyAdded = _keys.DEFAULT,
    sample: Annotated[str | None, typer.Option(help="Section to show, all by default.")] = None,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Open a result in napari: spots, outlines of the domains, genes. Nothing is written."""
    with _one_line_errors(debug=debug, quiet=False):
        install = "pip install 'm2st[view]'"
        with importing("napari_spatialdata", "`m2st view`", install, _NO_WINDOW):
            from napari_spatialdata import Interactive
        import spatialdata

        import m2st

        result = m2st.io.read(input_path, table=table, trust=trust)
        with TemporaryDirectory(prefix="m2st-") as folder:
            store = Path(folder) / "result.zarr"
            m2st.io.export(
                result,
                store,
                "spatialdata",
                key_added=key_added,
                sample=sample,
                sample_key=sample_key,
                spatial_key=spatial_key,
            )
            shown = spatialdata.read_zarr(store)
            window = Interactive(shown)
            spots = next(name for name in shown.shapes if name.startswith(f"{key_added}_spots"))
            system = next(
                iter(spatialdata.transformations.get_transformation(shown[spots], get_all=True))
            )
            window.add_element(spots, system, view_element_system=True)
            window.run()


@app.command()
def compare(
    input_path: Input,
    domains: Annotated[int, typer.Option("--domains", "-k", min=1, help="Number of domains.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file of the scores.")],
    table: Table = None,
    truth: Annotated[
        str | None, typer.Option(help="Column of obs with an annotation, for the scores only.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Which to run, separated by commas.")
    ] = "m2ST,BayesSpace,Seurat,BANKSY",
    labels: Annotated[Path | None, typer.Option(help="CSV file of the domains to write.")] = None,
    layer: Layer = None,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Seed, 0 by default; once for each run.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1001, help="Iterations of BayesSpace, 50000 by default.")
    ] = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare m2ST with BayesSpace, Seurat and BANKSY on the same counts (needs R)."""
    with _one_line_errors(debug=debug, quiet=quiet):
        import m2st

        for path in (output, labels):
            if path is not None:
                _check_output(input_path, path, overwrite=overwrite, suffixes=(".csv",))
        if labels is not None and _same(output, labels):
            msg = f"Expected scores and domains in two files, found {output} for both."
            raise ValueError(msg)
        found = m2st.compare_methods(
            m2st.io.read(input_path, table=table, trust=trust),
            domains,
            truth=truth,
            methods=[name.strip() for name in methods.split(",")],
            seeds=seed or [0],
            layer=layer,
            spatial_key=spatial_key,
            sample_key=sample_key,
            options={"BayesSpace": {"nrep": iterations}} if iterations else None,
        )
        write_whole(output.resolve(), found.table.to_csv(index=False).encode())
        if labels is not None:
            write_whole(labels.resolve(), found.domains.to_csv().encode())
        shown = found.table.drop(columns=["seed", "k", "n_spots", "n_scored", "machine"])
        _say(f"{shown.round(3).to_string(index=False)}\nSaved {output}", quiet=quiet)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")] = Path(
        "demo"
    ),
    seed: Seed = 0,
    device: Device = "auto",
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the planted layers of a simulated cortex and compare with simpler methods."""
    with _one_line_errors(debug=debug, quiet=quiet) as saved:
        _check_folder(output, ("cortex.h5ad", "summary.txt", *_PICTURES), overwrite=overwrite)
        from sklearn.cluster import KMeans

        import m2st
        from m2st._graph import smooth

        adata = m2st.datasets.simulate_cortex(random_state=seed)
        truth = adata.obs["domain"]
        n_domains = truth.nunique()
        m2st.run(
            adata,
            n_domains,
            random_state=seed,
            device=device,
            n_jobs=jobs,
            progress=sys.stderr.isatty() and not quiet,
        )
        features = adata.obsm[_keys.Keys().no_neighbors]
        smoothed = smooth(features, adata.obsp["spatial_connectivities"], n_hops=3)
        kmeans = KMeans(n_domains, n_init=10, random_state=seed)
        scores = {
            "k-means without space": kmeans.fit_predict(features),
            "k-means on smoothed PCA": kmeans.fit_predict(smoothed),
            "m2ST": adata.obs["m2st_domain"],
        }
        lines = ["ARI against the planted layers", ""]
        lines += [
            f"  {name:<26}{m2st.metrics.ari(truth, found):.3f}" for name, found in scores.items()
        ]
        lines += ["", _summary(adata, _keys.Keys())]
        output.mkdir(parents=True, exist_ok=True)
        m2st.io.write(adata, output / "cortex.h5ad", overwrite=overwrite)
        saved.append(output / "cortex.h5ad")
        write_whole(output.resolve() / "summary.txt", ("\n".join(lines) + "\n").encode())
        _save_plots(adata, output, truth="domain")
        lines += [f"Saved cortex.h5ad, summary.txt and pictures in {output}/"]
        _say("\n".join(lines), quiet=quiet)


@app.command("report")
def report_command(
    input_path: Result,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    table: Table = None,
    key_added: KeyAdded = _keys.DEFAULT,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Further column of obs to show on the map; can be repeated."),
    ] = None,
    spatial_key: SpatialKey = None,
    sample_key: SampleKey = None,
    markers: Annotated[int, typer.Option(min=0, help="Most genes to list for each domain.")] = 5,
    title: Annotated[str | None, typer.Option(help="Heading; by default the file's name.")] = None,
    trust: Trust = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a result as one HTML page that opens without a network."""
    with _one_line_errors(debug=debug, quiet=quiet):
        import m2st

        _check_output(input_path, output, overwrite=overwrite, suffixes=(".html",))
        m2st.report(
            m2st.io.read(input_path, table=table, trust=trust),
            output,
            key_added=key_added,
            columns=column or [],
            spatial_key=spatial_key,
            sample_key=sample_key,
            n_markers=markers,
            title=title or input_path.stem,
            overwrite=overwrite,
        )
        _say(f"Saved {output}: {output.stat().st_size / 1e6:.1f} MB", quiet=quiet)


@app.command()
def info(debug: Debug = False) -> None:
    """Show versions, the device and the attention that would be used, and whether R is there."""
    with _one_line_errors(debug=debug, quiet=False):
        from m2st._nn._training import choose_device

        names = ("m2st", "torch", "torch-geometric", "numba", "scanpy")
        rows = {name: version(name) for name in names}
        rows |= {
            "python": f"{platform.python_version()} ({sys.executable})",
            "device": str(choose_device()),
            "attention": _attention(),
            "R": shutil.which("R") or "not found",
        }
        _say("\n".join(f"{name:<17}{value}" for name, value in rows.items()), quiet=False)


def _attention() -> str:
    """How attention is computed on a CPU here, and where what is compiled for it is kept."""
    from m2st._nn._attention import loops

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is said here
        reason = loops().reason
    if reason:
        return f"reference, by torch-geometric: {reason}"
    from m2st._nn._compile import cache_folder

    folder = cache_folder()
    return f"fused, compiled code {'is not kept' if folder is None else f'in {folder}'}"


@contextlib.contextmanager
def _one_line_errors(*, debug: bool, quiet: bool) -> Iterator[list[Path]]:
    """Turn log records, warnings and errors into single lines on standard error.

    What the command has saved is added to the list.
    """
    saved: list[Path] = []
    logging.basicConfig(format="%(message)s", level=logging.WARNING if quiet else logging.INFO)
    for name in ("scanpy", "numba", "matplotlib", "h5py", "rpy2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings(record=False):
        warnings.showwarning = lambda message, *_, **__: typer.echo(
            f"Warning: {_as_options(str(message))}", err=True
        )
        try:
            yield saved
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            what = ", ".join(map(str, saved)) or "nothing"
            typer.echo(f"m2st: interrupted, {what} was saved", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if debug:
                traceback.print_exc()
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            # anndata names the key that it could not write in a note.
            words = [str(text or type(error).__name__), *getattr(error, "__notes__", [])]
            typer.echo(f"m2st: {_as_options(' '.join(' '.join(words).split()))}", err=True)
            raise typer.Exit(1) from None


def _as_options(text: str) -> str:
    """Name arguments as the command line does: `sample_key='x'` becomes `--sample-key x`."""

    def option(match: re.Match[str]) -> str:
        name, value = match[1].replace("_", "-"), (match[2] or "").strip("'\"")
        if name == "table" and "table to write" in text:
            name = "output-table"
        name = {"label-key": "labels", "cell-type-key": "cell-types"}.get(name, name)
        return f"`--{name}`" if value in {"", "True"} else f"`--{name} {value}`"

    return _ARGUMENT.sub(option, text)


@contextlib.contextmanager
def _on_cluster(address: str | None) -> Iterator[None]:
    """Give the members of the ensemble to a Dask cluster, if one is named."""
    if address is None:
        yield
        return
    with importing("distributed", "`--dask`", "pip install 'm2st[dask]'"):
        import dask
        from distributed import Client
    import joblib

    try:
        client = Client(address, timeout=_DASK_TIMEOUT)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        msg = (
            f"Expected a Dask scheduler at {address}, found none that answers within "
            f"{_DASK_TIMEOUT} seconds. Start one with `dask scheduler`, and give the address that "
            "it prints, such as tcp://10.0.0.1:8786."
        )
        raise ConnectionError(msg) from error
    # Members carry their data with them, so that none is lost with a worker.
    quiet = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}
    with client, dask.config.set(quiet):
        _check_workers(client.nthreads(), address)  # type: ignore[no-untyped-call]
        with joblib.parallel_config(backend="dask", client=client):
            yield


def _check_workers(n_threads: Mapping[str, int], address: str) -> None:
    """Require two workers or more, of one thread each."""
    advice = f"Start some with `dask worker {address} --nworkers 4 --nthreads 1`."
    for worker, number in n_threads.items():
        if number > 1:  # members take turns in a process, whatever the number of its threads
            msg = (
                f"Expected Dask workers of one thread each, found {worker} with {number}. {advice}"
            )
            raise ValueError(msg)
    if len(n_threads) < 2:
        msg = f"Expected at least two Dask workers at {address}, found {len(n_threads)}. {advice}"
        raise ValueError(msg)


def _check_output(
    input_path: Path, output: Path, *, overwrite: bool, suffixes: tuple[str, ...] = (".h5ad",)
) -> None:
    """Refuse, before any work, an output that could not or should not be written."""
    if _same(output, input_path):
        msg = f"Expected an output other than the input, found {output} for both."
        raise ValueError(msg)
    check_target(output, suffixes, overwrite=True)
    if output.exists() and not overwrite:
        msg = f"{output} exists. Name another file, or replace it with --overwrite."
        raise FileExistsError(msg)


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are of the same file, which need not be there."""
    return os.path.realpath(one) == os.path.realpath(other) or (
        os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
    )


def _check_model_folder(folder: Path | None, output: Path, *, overwrite: bool) -> None:
    """Require a place for a model, if one is to be saved, other than that of the result."""
    from m2st._model import check_folder

    if folder is None:
        return
    if _same(folder, output):
        msg = f"Expected result and model in two places, found {output} for both."
        raise ValueError(msg)
    check_folder(folder, overwrite=overwrite)


def _check_folder(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse, before any work, a folder that could not be made, or files that should stay."""
    missing = folder.resolve()
    while not os.path.lexists(missing.parent):
        missing = missing.parent
    if not os.path.lexists(missing):
        check_target(missing, (), overwrite=True)
        return
    if not folder.is_dir():
        msg = f"Expected a folder or nothing at {folder}, found a file. Name another folder."
        raise ValueError(msg)
    for name in names:
        check_target(folder / name, (), overwrite=True)
        if (folder / name).exists() and not overwrite:
            msg = f"{folder / name} exists. Name another folder, or replace it with --overwrite."
            raise FileExistsError(msg)


def _n_domains(text: str) -> int | Literal["auto"]:
    """Read the number of domains."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError as error:
        msg = f"Expected `--domains` to be a whole number or auto, found {text!r}."
        raise ValueError(msg) from error


def _save_plots(
    adata: AnnData,
    folder: Path,
    *,
    truth: str | None = None,
    names: Sequence[str] = _PICTURES,
    key_added: str = _keys.DEFAULT,
) -> None:
    """Write the pictures of a run, after its result; one that fails is a warning."""
    import m2st

    figures: dict[str, Callable[[], Figure]] = {
        "domains.png": lambda: m2st.pl.domains(adata, truth=truth, key_added=key_added),
        "training.png": lambda: m2st.pl.training(adata, key_added=key_added),
    }
    for name in names:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            image = BytesIO()
            figures[name]().savefig(image, format="png", dpi=150, bbox_inches="tight")
            write_whole(folder.resolve() / name, image.getvalue())
        except Exception as error:  # the result is there, whatever a picture cannot do
            reason = " ".join(str(error).split()) or type(error).__name__
            warn(f"{folder / name} could not be drawn and was left out: {reason}")


def _summary(adata: AnnData, keys: _keys.Keys) -> str:
    """Say in words what was found and how."""
    record = adata.uns[keys.record]
    embedding, clustering = record["embed"], record["cluster"]
    weights = ", ".join(f"{weight:.2f}" for weight in clustering["scale_weights"].mean(axis=0))
    if only_common(clustering["scale_weights"]):
        weights = "all on what they share, as is usual"
    loss = embedding["loss"]
    last = [row[~np.isnan(row)] for row in loss]
    fewest, most = min(map(len, last)), max(map(len, last))
    epochs = str(most) if fewest == most else f"{fewest} to {most}"
    lines = [
        *_domains_in_words(adata, keys),
        f"Training: {len(loss)} members, {embedding['stopped']} after "
        f"{epochs} epochs on {embedding['device']}, loss "
        f"{np.mean([row[-1] for row in last if len(row)] or np.nan):.4f}",
        f"Weights of the scales, and of what they share: {weights}",
    ]
    return "\n".join(lines)


def _domains_in_words(adata: AnnData, keys: _keys.Keys) -> list[str]:
    """Sizes of the domains, the graph, and how sure; of a run or of a model that was applied."""
    record = adata.uns[keys.record]
    domains, graph = adata.obs[keys.domain], record["graph"]
    sizes = domains.value_counts(sort=False)
    sure = adata.obs[keys.confidence].dropna()
    confident = (
        f"Confidence of at least 0.9: {(sure >= 0.9).mean():.0%} of the observations"
        if len(sure)
        else "No confidence: a single model gave labels without probabilities"
    )
    lines = [
        f"{len(sizes)} domains in {adata.n_obs} observations: "
        + ", ".join(f"{name} ({size})" for name, size in sizes.items()),
        f"Graph: {graph.get('reason', graph['method'])}",
        confident,
    ]
    n_unassigned = record.get("apply", {}).get("n_unassigned", 0)
    if n_unassigned:
        lines.append(
            f"{n_unassigned} observations are unlike all that is labelled, without a label"
        )
    n_invalid = int(domains.isna().sum()) - n_unassigned
    if n_invalid:
        lines.append(f"{n_invalid} observations without counts or place have no domain")
    return lines


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        typer.echo(text)
