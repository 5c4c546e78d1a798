from __future__ import annotations

import itertools
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
import warnings
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import pytest
from tests.command import call
from typer.testing import CliRunner

import m2st
from m2st.cli import app

M2ST = str(Path(sys.executable).with_name("m2st"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "cortex.h5ad"
    m2st.io.write(m2st.datasets.simulate_cortex(n_obs=200, n_genes=120), path)
    return path


def test_run_saves_result_and_pictures(data: Path, tmp_path: Path) -> None:
    before = data.read_bytes()
    output, plots = tmp_path / "out.h5ad", tmp_path / "plots"
    found = call(
        "run", data, "--domains", "4", "-o", output, "--plots", plots,
        "--epochs", "5", "--scale-dims", "16,8,4", "--members", "2", "--jobs", "2",
        "--set", "smoothness=5", "--set", "loss_exponent=none",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "4 domains in 200 observations" in found.stdout
    assert "hexagonal array" in found.stdout
    assert "Training: 2 members, finished after 5 epochs" in found.stdout
    adata = m2st.io.read(output)
    assert adata.obs["m2st_domain"].nunique() == 4
    assert adata.obsm["X_m2st_scale3"].shape == (200, 2 * 4)
    assert adata.uns["m2st"]["cluster"]["params"]["smoothness"] == 5
    assert "loss_exponent" not in adata.uns["m2st"]["embed"]["params"]
    share = (adata.obs["m2st_confidence"] >= 0.9).mean()
    assert f"Confidence of at least 0.9: {share:.0%} of the observations" in found.stdout
    assert sorted(path.name for path in plots.iterdir()) == [
        "domains.png", "training.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())
    assert data.read_bytes() == before


def test_a_saved_model_is_applied_to_another_section(data: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "model", tmp_path / "out.h5ad"
    found = call(
        "run", data, "-k", "4", "-o", tmp_path / "first.h5ad", "--save-model", folder,
        "--epochs", "5", "--members", "2",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(f"Saved {tmp_path / 'first.h5ad'} and {folder}\n")
    other = m2st.datasets.simulate_cortex(n_obs=240, n_genes=120, random_state=1)
    m2st.io.write(other, tmp_path / "other.h5ad")
    words = ["apply", folder, tmp_path / "other.h5ad", "-o", output, "--plots", tmp_path / "plots"]
    found = call(*words)
    assert found.returncode == 0, found.stderr
    assert "4 domains in 240 observations" in found.stdout
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["domains.png"]
    m2st.load(folder).apply(other)
    written = m2st.io.read(output)
    assert written.obs["m2st_domain"].equals(other.obs["m2st_domain"])
    np.testing.assert_array_equal(written.obsm["X_m2st"], other.obsm["X_m2st"])
    assert f"{output} exists" in call(*words).stderr


def test_labels_of_a_reference_reach_a_new_section(tmp_path: Path) -> None:
    whole = m2st.datasets.simulate_cortex(n_obs=500, n_genes=100)
    left = whole.obsm["spatial"][:, 0] < np.median(whole.obsm["spatial"][:, 0])
    old, new = tmp_path / "old.h5ad", tmp_path / "new.h5ad"
    m2st.io.write(whole[left].copy(), old)
    m2st.io.write(whole[~left].copy(), new)
    output, folder = tmp_path / "out.h5ad", tmp_path / "model"
    found = call(
        "annotate", new, "--reference", old, "--labels", "domain", "-o", output,
        "--save-model", folder, "--plots", tmp_path / "plots",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(f"Saved {output} and {folder}\n")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["domains.png"]
    again = tmp_path / "again.h5ad"
    found = call("annotate", new, "--reference", folder, "-o", again)
    assert found.returncode == 0, found.stderr
    first, second = m2st.io.read(output), m2st.io.read(again)
    assert first.obs["m2st_domain"].equals(second.obs["m2st_domain"])
    found = call("annotate", new, "--reference", old, "-o", tmp_path / "no.h5ad")
    assert found.stderr.count("\n") == 1
    assert "Expected `--labels`, the column with the labels, found None" in found.stderr
    assert "two places" in call(
        "annotate", new, "--reference", folder, "-o", tmp_path / "x.h5ad",
        "--save-model", tmp_path / "x.h5ad",
    ).stderr  # fmt: skip
    found = call(
        "annotate", new, "--reference", folder, "--labels", "x", "-o", tmp_path / "no.h5ad"
    )
    assert "Expected no `--labels` beside a model" in found.stderr
    found = call("annotate", new, "--reference", folder, "--n-new", 1, "-o", tmp_path / "one.h5ad")
    assert found.returncode == 0, found.stderr
    assert m2st.io.read(tmp_path / "one.h5ad").obs["m2st_domain"].cat.categories[-1] == "new 1"
    found = call("annotate", new, "--reference", folder, "--n-new", -1, "-o", tmp_path / "no.h5ad")
    assert "`--n-new`" in found.stderr
    assert not (tmp_path / "no.h5ad").exists()


def test_models_are_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    def said(*words: str | Path) -> str:
        found = call(*words)
        assert found.returncode == 1
        assert found.stderr.count("\n") == 1
        return found.stderr

    output, full = tmp_path / "out.h5ad", tmp_path / "full"
    start = ("run", data, "-k", "4", "-o", output, "--save-model")
    assert "Expected result and model in two places" in said(*start, output)
    full.mkdir()
    (full / "notes.txt").touch()
    assert "a folder with notes.txt, which is never replaced" in said(*start, full)
    assert "that `m2st.Model.save` wrote, found one without" in said(
        "apply", full, data, "-o", output
    )
    (full / "arrays.safetensors").touch()  # a model without its main file
    assert "that `m2st.Model.save` wrote, found one without model.json" in said(
        "annotate", data, "--reference", full, "-o", output
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.dist
def test_processes_of_torchrun_find_what_one_does(data: Path, tmp_path: Path) -> None:
    options = ["-k", "3", "--epochs", "10", "--members", "2", "--batch-size", "64"]
    alone = call("run", data, "-o", tmp_path / "alone.h5ad", *options)
    assert alone.returncode == 0, alone.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    together = subprocess.run(
        [*torchrun, M2ST, "run", data, "-o", tmp_path / "together.h5ad", *options],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("Saved") == 1
    one, other = (m2st.io.read(tmp_path / f"{name}.h5ad") for name in ("alone", "together"))
    np.testing.assert_allclose(one.obsm["X_m2st_scale1"], other.obsm["X_m2st_scale1"], atol=0.05)
    # Sums in another order: a border may move by an observation.
    assert m2st.metrics.ari(one.obs["m2st_domain"], other.obs["m2st_domain"]) > 0.95


def test_quiet_prints_nothing(data: Path, tmp_path: Path) -> None:
    found = call(
        "run", data, "-k", "2", "-o", tmp_path / "o.h5ad", "--epochs", "2", "--members", "1",
        "--quiet",
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.h5ad", "-k", "2", "-o", "out.h5ad"], "absent.h5ad"),
        (["{data}", "-k", "2", "-o", "{data}", "--overwrite"], "an output other than the input"),
        (["{data}", "-k", "2", "-o", "out.csv"], "Expected a path that ends in `.h5ad`"),
        (["{data}", "-k", "2", "-o", "nowhere/out.h5ad"], "/nowhere to exist. Make it first"),
        (["{data}", "-k", "900", "-o", "out.h5ad"], "no more `n_domains` than observations"),
        (["{data}", "-k", "2", "-o", "out.h5ad", "--layer", "x"], "Expected 'x' in `adata.layers`"),
        (["{data}", "-k", "2", "-o", "out.h5ad", "--scale-dims", "a"], "such as 64,32, found 'a'"),
        (["{data}", "-k", "2", "-o", "out.h5ad", "--set", "gloss=1"], "found 'gloss=1'. There are"),
    ],
)
def test_errors_are_one_line(
    data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    words = [argument.format(data=data) for argument in arguments]
    found = call("run", *words, cwd=tmp_path)
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("m2st: ")
    assert message in last
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_setting() -> None:
    text = call("run", "--help").stdout
    settings = (*m2st.AutoencoderParams.ranges, *m2st.ClusteringParams.ranges)
    assert [name for name in settings if name not in text] == []


def test_arguments_are_named_as_options() -> None:
    from m2st.cli import _as_options

    text = "Pass `sample_key='slide'`, `spatial_key=`, `normalized=True` or `table=`; `adata.X`."
    assert _as_options(text) == (
        "Pass `--sample-key slide`, `--spatial-key`, `--normalized` or `--table`; `adata.X`."
    )


def test_table_and_coordinates_by_name(tmp_path: Path) -> None:
    sd = pytest.importorskip("spatialdata", reason="spatialdata is an extra")
    rng = np.random.default_rng(0)
    bins = anndata.AnnData(
        rng.poisson(1.0, (120, 30)).astype(np.float32),
        obs={"fov": np.arange(120) // 30},
        obsm={"spatial_fov": rng.uniform(0, 100, (120, 2))},
    )
    bins.obsm["spatial_fov"][:, 0] = np.sort(bins.obsm["spatial_fov"][:, 0])
    bins.obsm["spatial"] = bins.obsm["spatial_fov"] % [25, 100]
    store = tmp_path / "hd.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sd.SpatialData(tables={"t008": bins, "t016": bins[:90].copy()}).write(store)
    quick = ["-k", "2", "--epochs", "2", "--members", "1"]
    found = call("run", store, *quick, "-o", tmp_path / "out.h5ad")
    assert found.returncode == 1
    assert "Name one with `--table`." in found.stderr
    found = call("run", store, *quick, "-o", tmp_path / "a.h5ad", "--table", "t016")
    assert found.returncode == 0, found.stderr
    assert "`adata.obs['fov']` lie on top of each other" in found.stderr
    assert "pass `--spatial-key spatial_fov`" in found.stderr
    out = tmp_path / "out.h5ad"
    options = ["--table", "t016", "--spatial-key", "spatial_fov", "--plots", tmp_path / "plots"]
    found = call("run", store, *quick, "-o", out, *options)
    assert found.returncode == 0, found.stderr
    assert "lie on top" not in found.stderr
    adata = m2st.io.read(out)
    assert adata.n_obs == 90
    assert adata.uns["m2st"]["graph"]["spatial_key"] == "spatial_fov"
    found = call("convert", store, tmp_path / "c.h5ad", "--table", "t016")
    assert found.returncode == 0, found.stderr
    found = call("report", out, "-o", tmp_path / "page.html", "--spatial-key", "nowhere")
    assert "'nowhere' in `adata.obsm`" in found.stderr
    for command in ("report", "compare"):
        text = call(command, "--help").stdout
        assert "--table" in text
        assert "--spatial-key" in text


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    found = call("run", "absent.h5ad", "-k", "2", "-o", tmp_path / "out.h5ad", "--debug")
    assert found.returncode == 1
    assert "Traceback (most recent call last)" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.h5ad", "--plots", "absent/" * 2 + "file"], None),
        (["-o", "out.h5ad", "--plots", "{data}"], "a folder or nothing at"),
        (["-o", "out.h5ad", "--plots", "a" * 300], "File name too long"),
        (["-o", "a" * 300 + ".h5ad"], "File name too long"),
        (["-o", "out.h5ad", "--checkpoint", "absent/state"], "absent to exist"),
        (["-o", "/proc/out.h5ad"], "can be written, found: "),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_read(
    tmp_path: Path, data: Path, arguments: list[str], message: str | None
) -> None:
    arguments = [argument.format(data=data) for argument in arguments]
    found = call("run", "absent.h5ad", "-k", "2", *arguments, cwd=tmp_path)
    assert found.returncode == 1
    assert (message or "found nothing") in found.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_what_the_format_cannot_hold_is_said_before_training(data: Path, tmp_path: Path) -> None:
    adata = m2st.io.read(data)
    adata.uns["a b"] = 1
    m2st.io.write(adata, tmp_path / "a.h5ad")
    found = call("run", tmp_path / "a.h5ad", "-k", "2", "-o", tmp_path / "o.zarr", "--epochs", "2")
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1  # no word of the graph: nothing was done
    assert "a table that SpatialData can hold, found: " in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.filterwarnings("always:.*could not be drawn")  # as in a process of its own
def test_a_picture_that_fails_is_a_warning_after_the_result(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, plots = tmp_path / "out.h5ad", tmp_path / "plots"
    options = ["--epochs", "2", "--members", "1", "--plots", str(plots)]
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no LaTeX
    with matplotlib.rc_context({"text.usetex": True}):
        found = CliRunner().invoke(app, ["run", str(data), "-k", "2", "-o", str(output), *options])
    assert found.exit_code == 0, found.stderr
    assert f"Warning: {plots / 'domains.png'} could not be drawn and was left out: " in found.stderr
    assert found.stdout.index("Saved") > 0
    assert m2st.io.read(output).n_obs == 200
    assert list(plots.iterdir()) == []
    (plots / "training.png").touch()
    again = call("run", data, "-k", "2", "-o", tmp_path / "b.h5ad", "--plots", plots)
    assert again.returncode == 1
    assert "training.png exists. Name another folder, or replace it with --over" in again.stderr


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")
def test_a_run_goes_into_a_spatialdata_store(data: Path, tmp_path: Path) -> None:
    options = ["-k", "2", "--epochs", "2", "--members", "1"]
    found = call("run", data, "-o", tmp_path / "a.zarr", *options)
    assert found.returncode == 0, found.stderr
    found = call("run", data, "-o", tmp_path / "a.zarr", "--output-table", "new", *options)
    assert "a.zarr exists" in found.stderr
    found = call(
        "run", data, "-o", tmp_path / "a.zarr", "--output-table", "new", "--overwrite", *options
    )
    assert found.returncode == 0, found.stderr
    for table in ("table", "new"):
        assert m2st.io.read(tmp_path / "a.zarr", table=table).obs["m2st_domain"].nunique() == 2


def test_compare_refuses_one_file_for_both(data: Path, tmp_path: Path) -> None:
    for labels in (tmp_path / "s.csv", tmp_path / "." / "x" / ".." / "s.csv"):
        found = call("compare", data, "-k", "2", "-o", tmp_path / "s.csv", "--labels", labels)
        assert found.returncode == 1
        assert "Expected scores and domains in two files, found" in found.stderr


def test_usage_errors_exit_with_2(data: Path) -> None:
    assert call("run", data, "-o", "out.h5ad").returncode == 2
    assert call("nonsense").returncode == 2


def test_an_output_is_not_replaced_unasked(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5ad"
    output.write_bytes(b"precious")
    found = call("run", data, "-k", "2", "-o", output, "--epochs", "2")
    assert found.returncode == 1
    assert "replace it with --overwrite" in found.stderr
    assert output.read_bytes() == b"precious"


def test_checkpoint_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    first, second, checkpoint = tmp_path / "1.h5ad", tmp_path / "2.h5ad", tmp_path / "state"
    for output in (first, second):
        found = call(
            "run", data, "-k", "3", "-o", output, "--epochs", "4", "--members", "2",
            "--checkpoint", checkpoint,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
    assert {path.name for path in tmp_path.glob("state*")} == {"state.1", "state.2"}
    assert "Resumed from" in found.stderr
    one, two = (anndata.read_h5ad(path) for path in (first, second))
    np.testing.assert_array_equal(one.obsm["X_m2st"], two.obsm["X_m2st"])


@pytest.mark.dist
def test_interrupt_saves_what_was_learned(tmp_path: Path) -> None:
    """Ctrl-C at a terminal, once the progress bar moves."""
    data, output = tmp_path / "data.h5ad", tmp_path / "out.h5ad"
    # Large enough that the training takes seconds from its first epoch to its end.
    m2st.io.write(m2st.datasets.simulate_cortex(n_obs=5000, n_genes=100), data)
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    process = subprocess.Popen(
        [M2ST, "run", str(data), "-k", "3", "-o", str(output)],
        stderr=child,
        stdout=subprocess.PIPE,
    )
    os.close(child)
    seen = b""
    deadline = time.monotonic() + 120
    while b"loss=" not in seen and time.monotonic() < deadline:
        seen += os.read(parent, 4096)
    process.send_signal(signal.SIGINT)
    while True:  # an unread terminal would block the child
        try:
            chunk = os.read(parent, 4096)
        except OSError:
            break
        if not chunk:
            break
    stdout, _ = process.communicate()
    os.close(parent)
    assert process.returncode == 130
    assert b"interrupted after" in stdout
    found = anndata.read_h5ad(output)
    assert found.uns["m2st"]["embed"]["stopped"] == "interrupted"
    assert found.uns["m2st"]["n_members"] < 20


@pytest.mark.dist
def test_demo(tmp_path: Path) -> None:
    found = call("demo", "-o", tmp_path / "demo")
    assert found.returncode == 0, found.stderr
    for name in ("k-means without space", "k-means on smoothed PCA", "m2ST"):
        assert name in found.stdout
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {
        "cortex.h5ad", "domains.png", "summary.txt", "training.png",
    }  # fmt: skip


@pytest.mark.dist
def test_info() -> None:
    """The program as it is installed: all others here are called by `tests.command`."""
    found = subprocess.run([M2ST, "info"], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    for name in ("m2st", "torch", "device", "R"):
        assert any(line.startswith(name) for line in found.stdout.splitlines())


@pytest.mark.r
@pytest.mark.skipif(shutil.which("R") is None, reason="R is not installed")
def test_convert_between_all_formats(data: Path, tmp_path: Path) -> None:
    chain = [data, *(tmp_path / name for name in ("a.rds", "b.rda", "c.zarr", "d.RData", "e.h5ad"))]
    for source, target in itertools.pairwise(chain):
        found = call("convert", source, target, *(["--as", "Seurat"] if source == data else []))
        assert found.returncode == 0, found.stderr
        assert f"Saved {target}: 200 observations, 120 genes" in found.stdout
    before, after = m2st.io.read(data), m2st.io.read(chain[-1])
    assert (before.X != after.X).nnz == 0
    np.testing.assert_array_equal(before.obsm["spatial"], after.obsm["spatial"])
    assert before.obs["domain"].equals(after.obs["domain"])


def test_convert_refuses_in_one_line(data: Path, tmp_path: Path) -> None:
    found = call("convert", data, tmp_path / "a.h5ad", "--as", "Seurat")
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert "`--as` only with an .rds" in found.stderr
    assert "ends in `.h5ad`, `.zarr`, `.rds`" in call("convert", data, tmp_path / "a.csv").stderr


@pytest.mark.r
@pytest.mark.skipif(shutil.which("R") is None, reason="R is not installed")
def test_run_takes_an_r_object(data: Path, tmp_path: Path) -> None:
    assert call("convert", data, tmp_path / "a.rds", "--as", "Seurat").returncode == 0
    found = call(
        "run", tmp_path / "a.rds", "-k", "3", "-o", tmp_path / "out.h5ad", "--epochs", "2",
        "--members", "1",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "3 domains in 200 observations" in found.stdout
