"""The bridge to R: the same results as `m2st.run`, as plain values and buffers."""

from __future__ import annotations

import ast
import itertools
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

import m2st
from m2st import _keys, bridge

QUICK = {"n_members": 2, "n_epochs": 5, "hidden_dim": 16, "scale_dims": [8, 4]}
PLAIN = (dict, list, str, int, float, bool, bytearray, type(None))


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return m2st.datasets.simulate_cortex(n_obs=200, n_genes=80, random_state=1)


def request_of(adata: AnnData, **changes: Any) -> dict[str, Any]:
    """What R sends for an object."""
    counts = sparse.csr_matrix(adata.X)
    coordinates = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    return {
        "shape": list(adata.shape),
        "data": bytearray(counts.data.astype(np.float32).tobytes()),
        "indices": bytearray(counts.indices.astype(np.int32).tobytes()),
        "indptr": bytearray(counts.indptr.astype(np.int32).tobytes()),
        "coordinates": bytearray(coordinates.tobytes(order="F")),
        "n_axes": coordinates.shape[1],
        "n_domains": 3,
        "autoencoder": QUICK,
        "clustering": {"n_init": 2},
        "normalized": False,
        "random_state": 7,
        "device": "cpu",
        "every": 1,
        **changes,
    }


def matrix(part: dict[str, Any]) -> NDArray[np.float32]:
    """Matrix as R reads it."""
    return np.frombuffer(part["data"], np.float32).reshape(part["shape"], order="F")


def labels(answer: dict[str, Any]) -> list[int]:
    return np.frombuffer(answer["labels"], np.int32).tolist()


def run_in_python(adata: AnnData, **changes: Any) -> AnnData:
    copy = adata.copy()
    settings = {
        "autoencoder": m2st.AutoencoderParams(**{**QUICK, "scale_dims": (8, 4)}),
        "clustering": m2st.ClusteringParams(n_init=2),
        "random_state": 7,
        "device": "cpu",
        "progress": False,
    }
    m2st.run(copy, 3, **(settings | changes))
    return copy


def assert_plain(value: Any) -> None:
    assert type(value) in PLAIN
    items = value.values() if isinstance(value, dict) else value
    for item in items if isinstance(value, dict | list) else []:
        assert_plain(item)


def assert_same(answer: dict[str, Any], expected: AnnData) -> None:
    codes = expected.obs[_keys.Keys().domain].cat.codes.to_numpy() + 1
    assert labels(answer) == codes.tolist()
    np.testing.assert_array_equal(
        np.frombuffer(answer["confidence"], np.float64), expected.obs[_keys.Keys().confidence]
    )
    np.testing.assert_array_equal(
        matrix(answer["embedding"]), expected.obsm[_keys.Keys().embedding]
    )
    for number, scale in enumerate(answer["scales"], start=1):
        expected_scale = expected.obsm[_keys.Keys().scale(number)]
        np.testing.assert_array_equal(matrix(scale), expected_scale)


def test_same_bits_as_run(adata: AnnData) -> None:
    answer = bridge.run(request_of(adata))
    assert answer["warnings"] == []
    assert_same(answer, run_in_python(adata))
    assert_plain(answer)


def test_dense_counts_give_the_same_as_sparse_ones(adata: AnnData) -> None:
    dense = np.asarray(sparse.csr_matrix(adata.X).toarray(), dtype=np.float32)
    request = request_of(adata, dense=bytearray(dense.tobytes()))
    for part in ("data", "indices", "indptr"):
        del request[part]
    assert bridge.run(request)["labels"] == bridge.run(request_of(adata))["labels"]


@pytest.mark.filterwarnings("ignore:.* only have counts of genes that hold:UserWarning")
def test_the_published_method(adata: AnnData) -> None:
    settings = {"specific_dim": 4, "solver": "published", "max_iter": 10}
    request = request_of(adata, paper=True, autoencoder={"n_epochs": 2}, clustering=settings)
    answer = bridge.run(request | {"n_pcs": 20})
    copy = adata.copy()
    m2st.paper.run(
        copy,
        int(request["n_domains"]),
        n_pcs=20,
        autoencoder=replace(m2st.paper.AUTOENCODER, n_epochs=2),
        clustering=m2st.paper.DualParams(**settings),
        random_state=int(request["random_state"]),
        device="cpu",
        progress=False,
    )
    codes = np.frombuffer(answer["labels"], dtype=np.int32)
    np.testing.assert_array_equal(codes, copy.obs["m2st_domain"].cat.codes + 1)
    assert np.isnan(np.frombuffer(answer["confidence"], dtype=np.float64)).all()
    again = bridge.cluster(
        request
        | {
            "scales": [
                {
                    "data": bytearray(matrix(one).astype(np.float64).tobytes(order="F")),
                    "shape": one["shape"],
                }
                for one in answer["scales"]
            ],
            "n_members": 1,
            "n_domains": [request["n_domains"]],
        }
    )["results"][0]
    assert again["labels"] == answer["labels"]
    assert again["record"]["cluster"]["method"] == "dual"


def test_ready_features(adata: AnnData) -> None:
    features = np.random.default_rng(0).normal(size=(adata.n_obs, 30))
    request = request_of(
        adata, features=bytearray(features.tobytes(order="F")), shape=[adata.n_obs, 30]
    )
    answer = bridge.run(request)
    copy = adata.copy()
    copy.obsm["features"] = features.astype(np.float32)
    assert_same(answer, run_in_python(copy, use_rep="features"))
    assert answer["record"]["prepare"]["n_pcs"] == 15
    few = bridge.run(request | {"n_pcs": 4})
    assert few["record"]["prepare"]["n_pcs"] == 4
    assert_same(few, run_in_python(copy, use_rep="features", n_pcs=4))


@pytest.mark.parametrize("n_sections", [1, 2])
def test_embed_then_cluster_is_run(adata: AnnData, n_sections: int) -> None:
    codes = (np.arange(adata.n_obs) % n_sections).astype(np.int32)
    changes = {"sample": bytearray(codes.tobytes()), "sample_names": ["left", "right"][:n_sections]}
    changes["autoencoder"] = request_of(adata)["autoencoder"] | {"average_hops": 2}
    whole = bridge.run(request_of(adata, **changes))
    embedded = bridge.run(request_of(adata, n_domains=None, **changes))
    assert not {"labels", "confidence", "embedding"} & set(embedded)
    *scales, averages = [
        {
            "data": bytearray(matrix(scale).astype(np.float64).tobytes(order="F")),
            "shape": scale["shape"],
        }
        for scale in [*embedded["scales"], embedded["views"]["averages"]]
    ]
    kept = ("coordinates", "n_axes", "sample", "sample_names", "clustering", "random_state")
    request = {part: value for part, value in request_of(adata, **changes).items() if part in kept}
    n_members = embedded["record"]["n_members"]
    views = {"scales": scales, "views": {"averages": averages}, "n_members": n_members}
    said: list[str] = []
    answer = bridge.cluster(request | views | {"n_domains": [2, 3.0]}, said.append)
    assert said == ["Clustering into 2 domains", "Clustering into 3 domains"]
    assert_plain(answer)
    fewer, clustered = answer["results"]
    alone = bridge.cluster(request | views | {"n_domains": [2]})["results"][0]
    for part in ("labels", "confidence", "embedding", "domains"):
        assert fewer[part] == alone[part]
    for part in ("n_domains", "agreement", "stability"):
        assert fewer["record"]["cluster"][part] == alone["record"]["cluster"][part]
    for part in ("labels", "confidence", "embedding"):
        assert clustered[part] == whole[part]
    assert clustered["record"]["cluster"].keys() == whole["record"]["cluster"].keys()
    assert clustered["scales"] == []
    small = bridge.run(request_of(adata, keep_scales=False, **changes))
    assert small["scales"] == []
    assert small["embedding"] == whole["embedding"]


# Sections of noise share nothing, and are told so.
@pytest.mark.filterwarnings("ignore:Section:UserWarning")
def test_sections_share_no_edge(adata: AnnData) -> None:
    codes = (np.arange(adata.n_obs) % 2).astype(np.int32)
    answer = bridge.run(
        request_of(adata, sample=bytearray(codes.tobytes()), sample_names=["left", "right"])
    )
    copy = adata.copy()
    copy.obs["section"] = np.where(codes == 0, "left", "right")
    assert_same(answer, run_in_python(copy, sample_key="section"))
    assert answer["record"]["graph"]["n_between_samples"] == 0


def test_an_empty_observation_has_code_zero_and_one_warning(adata: AnnData) -> None:
    copy = adata.copy()
    counts = sparse.lil_matrix(copy.X)
    counts[4] = 0
    copy.X = sparse.csr_matrix(counts)
    answer = bridge.run(request_of(copy))
    assert labels(answer)[4] == 0
    assert labels(answer).count(0) == 1
    assert np.isnan(matrix(answer["embedding"])[4]).all()
    assert [text.split(":")[0] for text in answer["warnings"]] == ["1 of 200 spots have no counts"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": {"mask_rate": 2.0}}, r"Expected `mask_rate` in \[0, 1\), found 2.0."),
        ({"n_domains": 1000}, "Expected no more `k` than spots"),
        ({"autoencoder": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"coordinates": bytearray(3)}, "buffer size must be a multiple"),
    ],
)
def test_an_error_comes_back_as_its_message(
    adata: AnnData, changes: dict[str, Any], message: str
) -> None:
    answer = bridge.run(request_of(adata, **changes))
    assert set(answer) == {"error", "warnings"}
    assert re.search(message, answer["error"])


def test_an_unforeseen_error_names_its_type(
    adata: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **settings: object) -> None:
        msg = "no such luck"
        raise RuntimeError(msg)

    monkeypatch.setattr(m2st.tl, "embed", fail)
    assert bridge.run(request_of(adata))["error"] == "RuntimeError: no such luck"


def test_the_callback_stops_the_run(adata: AnnData) -> None:
    texts: list[str] = []

    def stop(text: str) -> bool:
        texts.append(text)
        return "epoch 4" not in text

    assert bridge.run(request_of(adata, every=2), stop) == {"interrupted": True, "warnings": []}
    assert [re.sub(",.*", "", text) for text in texts[1:]] == [
        "Model 1 of 2: epoch 2 of at most 5",
        "Model 1 of 2: epoch 4 of at most 5",
    ]
    assert texts[0].startswith("Spatial graph: ")


def test_the_callback_hears_of_each_step(adata: AnnData) -> None:
    texts: list[str] = []
    answer = bridge.run(request_of(adata, every=5, n_jobs=1), texts.append)
    assert "error" not in answer
    assert texts[-1] == f"Clustering into {len(answer['domains'])} domains"
    assert len(texts) == 4


def test_what_the_callback_raises_is_an_interrupt(adata: AnnData) -> None:
    def fail(text: str) -> None:
        msg = "(Unknown exception occurred)"
        raise RuntimeError(msg)

    assert bridge.run(request_of(adata), fail)["interrupted"]


def test_an_interrupt_stops_the_run(adata: AnnData) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    assert bridge.run(request_of(adata), interrupt)["interrupted"]


def test_a_real_interrupt_stops_the_run_and_the_handler_is_back(adata: AnnData) -> None:
    def interrupt(text: str) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert bridge.run(request_of(adata), interrupt)["interrupted"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_waits_until_modules_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load() -> None:
        signal.raise_signal(signal.SIGINT)
        loaded.append("torch")

    monkeypatch.setattr(bridge, "_load_torch", load)
    assert bridge.cluster({}) == {"interrupted": True, "warnings": []}
    assert loaded == ["torch"]


def test_the_record_is_plain() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": (True, None),
        4: 2**40,
        "e": np.str_("x"),
    }
    plain = bridge._plain(value)
    assert plain == {"a": 0.5, "b": [0, 1], "c": [True, None], "4": 2.0**40, "e": "x"}
    assert type(plain["4"]) is float
    assert_plain(plain)


OTHER_DOORS = (
    "__init__", "_readers", "_stores", "cli", "compare/_methods", "datasets", "interop",
    "io", "metrics", "pl",
)  # fmt: skip
"""Modules and rooms that R does not call."""

NOT_CALLED = {"check_adata", "check_in_memory", "prepare", "__repr__", "refit"}
"""Functions that R does not call, in modules of others that it does."""

NOT_GIVEN = {"callback", "domain_key", "n_neighbors", "radius"}
"""Arguments that no call from R has."""

PYTHON = re.compile(
    r"\b(adata|obs[mp]?|uns|var|var_names|None|True|False|NaN|scanpy|squidpy|scipy|numpy|pandas|np"
    r"|AnnData|DataFrame|ndarray|h5ad|int|float|str|dict|kwargs|self|n_obs)\b"
    r"|\bm2st\.(?!html)|\.\w+\(|\w+_key\b|`\w+=|=`|Params\b"
)
"""What a user of R does not know, whatever the bridge looks for."""

COLUMNS = {"in_tissue", "cells.csv.gz"}

NAMES = {"self.name": "adata", "error": "Found 7."}
"""What stands in some places of a message."""


def arguments_of_r() -> set[str]:
    """Names of all arguments in the help of the R package."""
    pages = Path(__file__).parents[1].glob("rpackage/man/*.Rd")
    items = re.findall(r"\\item\{([^{}]*)\}", "".join(page.read_text("utf-8") for page in pages))
    return {name.strip() for item in items for name in item.split(",")}


class Texts:
    """Texts that a function can make of its parts, with something in place of what it is given."""

    def __init__(self, function: ast.AST) -> None:
        self.values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.values.setdefault(node.targets[0].id, []).append(node.value)

    def __call__(self, node: ast.AST, depth: int = 0) -> list[str]:
        if isinstance(node, ast.Constant):
            return [node.value if isinstance(node.value, str) else str(node.value)]
        if isinstance(node, ast.JoinedStr):
            parts = [self(part, depth) for part in node.values]
            return ["".join(found) for found in itertools.islice(itertools.product(*parts), 50)]
        if isinstance(node, ast.FormattedValue):
            if node.conversion != ord("r"):
                return self(node.value, depth)
            return ["'spatial'" if ast.unparse(node.value) == "spatial_key" else "'x'"]
        if isinstance(node, ast.IfExp):
            return self(node.body, depth) + self(node.orelse, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [a + b for a in self(node.left, depth) for b in self(node.right, depth)]
        if isinstance(node, ast.Name) and node.id in self.values and depth < 3:
            return [text for value in self.values[node.id] for text in self(value, depth + 1)]
        return [NAMES.get(ast.unparse(node), "7")]


def messages_of(tree: ast.Module, *, logs: bool) -> set[str]:
    """Texts of a module but its docstrings: of messages, and of what they are made of."""
    found: set[str] = set()
    constants = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and not ast.unparse(node).startswith("_IN_R = ")  # words of Python, and what R says
    ]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for part in (*constants, *(each for each in functions if each.name not in NOT_CALLED)):
        texts = Texts(part)
        skipped: set[ast.AST] = set()
        for node in ast.walk(part):
            if node in skipped:
                continue
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
                skipped.update(ast.walk(node.annotation))
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.") > logs:
                skipped.update(ast.walk(node))
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skipped.add(node.value)
            elif isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp):
                skipped.update(ast.walk(node))
                found.update(texts(node))
    return {text for text in found if re.search(r"\w \w", text)}


def messages_of_the_core() -> dict[str, str]:
    """What the modules that the bridge calls may say, with the module that says it."""
    folder = Path(bridge.__file__).parent
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name.startswith(OTHER_DOORS):
            continue
        for text in messages_of(ast.parse(path.read_text("utf-8")), logs=name == "_run"):
            # What begins in no other way is a piece that follows on a first sentence.
            begins = re.match("[A-Z0-9]", text) and not re.match("(Run|Pass|Name|Call|Put) ", text)
            found[text if begins else f"Found 7. {text}"] = name
    return found


def text_of_the_page() -> str:
    """Text of the template of a report for R, without its tags."""
    folder = Path(bridge.__file__).parent / "_report" / "template"
    page = (folder / "report.html").read_text("utf-8")
    page = re.sub(r"({% if from_r %}.*?){% else %}.*?({% endif %})", r"\1\2", page)
    return re.sub(r"{[{%#].*?[}%#]}|<[^>]*>", " ", page, flags=re.DOTALL)


def test_messages_for_r_have_no_words_of_python() -> None:
    words = {"X": "assay 'counts'", "features": "reducedDim 'PCA'", "use_rep": "`dimred`"}
    messages = messages_of_the_core()
    assert len(messages) > 300
    known = arguments_of_r() | COLUMNS
    wrong = {}
    for text, module in messages.items():
        if NOT_GIVEN.intersection(re.findall(r"`(\w+)", text)):
            continue
        shown = bridge._in_r(text, words)
        names = set(re.findall(r"`([A-Za-z_.]+)[`=]", shown)) - known
        if names or PYTHON.search(shown):
            wrong[shown] = module, text, names
    assert wrong == {}


def test_the_page_for_r_has_no_words_of_python() -> None:
    text = text_of_the_page()
    assert "chooseDomains(x)" in text
    assert PYTHON.findall(text) == []


@pytest.mark.parametrize(
    ("python", "r"),
    [
        (
            "2 of 9 observations share their coordinates with another one of the same section. If "
            "several sections lie in one frame, tell them apart with `sample_key=`.",
            "2 of 9 spots share their coordinates with another one of the same section. If several "
            "sections lie in one frame, tell them apart with `sample_id`.",
        ),
        (
            "3 of 9 observations have no counts: their features are NaN and they will have no "
            "domain.",
            "3 of 9 spots have no counts: their features are missing and they will have no domain.",
        ),
        (
            "Expected finite `adata.obsm['spatial']`, found NaN or infinity in 1 of 9 "
            "observations. Remove them first: `adata[np.isfinite(adata.obsm['spatial']).all(1)]`.",
            "Expected finite coordinates, found missing or infinite values in 1 of 9 spots.",
        ),
        ("No spatial graph in `adata.obsp`.", "No spatial graph in the object."),
        (
            "Expected `key_added=` of letters, found '?'. Choose another name.",
            "Expected `name` of letters, found '?'. Choose another name.",
        ),
        (
            "The 2 sections or fields of view of `adata.obs['fov']` lie on top of each other. Pass "
            "`sample_key='fov'`, or `spatial_key='global'`, in which they lie apart.",
            "The 2 sections or fields of view of column 'fov' lie on top of each other. Pass "
            '`sample_id = "fov"`, or `coords = "global"`, in which they lie apart.',
        ),
        (
            "Expected `n_jobs` to be a whole number, found True (bool). Run `m2st.run(adata)`.",
            "Expected `n.cores` to be a whole number, found TRUE.",
        ),
        (
            "Expected domains in `adata.obs['m2st_domain']`, found none.",
            "Expected domains in column 'zone_domain', found none.",
        ),
        (
            "Expected `adata.obsm['X_m2st_scale1']` to be finite, found NaN or infinity in 1 of 9 "
            "observations.",
            "Expected `x$scales$scale1` to be finite, found missing or infinite values in 1 of 9 "
            "spots.",
        ),
        (
            "Expected the batch of every observation in `adata.obs['batch']`, found 2 missing.",
            "Expected the batch of every spot in `batch_id`, found 2 missing.",
        ),
        (
            "The data do not show so many domains. Ask for fewer; "
            "`m2st.tl.choose_n_domains(adata)` tells how many there are.",
            "The data do not show so many domains. Ask for fewer; "
            "chooseDomains() tells how many there are.",
        ),
    ],
)
def test_a_message_in_words_of_r(python: str, r: str) -> None:
    slots = {"m2st_domain": "column 'zone_domain'", "X_m2st_scale1": "`x$scales$scale1`"}
    assert bridge._in_r(python, {"sample_key": "`sample_id`", "slots": slots}) == r


def test_a_model_is_saved_and_applied(adata: AnnData, tmp_path: Path) -> None:
    folder = str(tmp_path / "model")
    genes = "\n".join(adata.var_names)
    answer = bridge.run(request_of(adata, save=folder, genes=genes))
    assert answer["domains"] == ["1", "2", "3"]
    other = m2st.datasets.simulate_cortex(n_obs=220, n_genes=80, random_state=2)
    other.obs_names = [str(number) for number in range(220)]
    request = request_of(other, model=folder, genes=genes)
    applied = bridge.apply(request)
    assert_plain(applied)
    expected = other.copy()
    m2st.load(folder).apply(expected)
    assert_same(applied, expected)
    assert applied["record"]["apply"]["n_domains"] == 3
    again = bridge.run(request_of(adata, save=folder, genes=genes))
    assert again["error"].endswith("found one. Name another folder, or delete this one first.")
    columns = [{"name": "symbol", "values": genes}]
    unknown = {"genes": genes.replace("g", "x"), "gene_columns": columns}
    error = bridge.apply(request | unknown)["error"]
    assert "among the row names, found 0" in error
    assert error.endswith("The column 'symbol' of the rows fits.")
    features = np.ones((220, 20)).tobytes()
    ready = request | {"shape": [220, 20], "features": bytearray(features)}
    error = bridge.apply(ready)["error"]
    assert error == "Expected expression, as the model was fitted on, found ready features."


def test_a_model_that_cannot_be_saved_is_a_warning(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: m2st.Model, folder: str) -> None:
        msg = f"Could not write {folder}: No space left on device."
        raise OSError(msg)

    monkeypatch.setattr(m2st.Model, "save", full)
    answer = bridge.run(request_of(adata, save=str(tmp_path / "model")))
    assert len(labels(answer)) == 200
    assert answer["warnings"][0].endswith("No space left on device.")


def test_names_that_occur_twice_are_no_concern_of_r(adata: AnnData, tmp_path: Path) -> None:
    request = request_of(adata)
    answer = bridge.run(request)
    names = ["A", "B"] * (adata.n_vars // 2)
    page = tmp_path / "page.html"
    written = bridge.report(
        {
            **{key: request[key] for key in ("coordinates", "n_axes")},
            "path": str(page),
            "title": "x",
            "n_markers": 2,
            "names": ["spot"] * adata.n_obs,
            "columns": [
                {
                    "name": _keys.Keys().domain,
                    "codes": (np.frombuffer(answer["labels"], np.int32) - 1).tobytes(),
                    "levels": ["1", "2", "3"],
                }
            ],
            "record": {**answer["record"], "r": {"m2st": "0.2.0"}},
            "expression": {**request, "genes": "\n".join(names)},
        }
    )
    assert written == {"warnings": []}
    text = page.read_text("utf-8")
    assert "chooseDomains(x)" in text
    shown = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert re.findall(r"m2st\.\w|adata|obsm|_key\b|use_rep|scanpy’s|NaN", shown) == []


@pytest.mark.parametrize(("part", "at", "value"), [("indices", 3, 10_000), ("indptr", -1, 10**6)])
def test_a_damaged_matrix_is_refused(adata: AnnData, part: str, at: int, value: int) -> None:
    request = request_of(adata, words={"X": "assay 'counts'"})
    numbers = np.frombuffer(request[part], np.int32).copy()
    numbers[at] = value
    answer = bridge.run({**request, part: bytearray(numbers.tobytes())})
    assert answer["error"].startswith("Expected a valid sparse matrix in assay 'counts', found a")


def test_what_r_knows_of_sections_is_used_for_warnings_only(adata: AnnData) -> None:
    plain = bridge.run(request_of(adata))
    column = {
        "name": "slide",
        "codes": np.repeat([0, 1, -1], [90, 90, 20]).astype(np.int32).tobytes(),
        "levels": ["a", "b"],
    }
    names = "\n".join(["AAAC-1"] * adata.n_obs)
    known = bridge.run(request_of(adata, candidates=[column], names=names))
    assert labels(known) == labels(plain)
    assert known["record"].keys() == plain["record"].keys()


def test_registration_is_that_of_python(adata: AnnData) -> None:
    def side() -> dict[str, Any]:
        return request_of(adata) | {"genes": "\n".join(adata.var_names)}

    codes = adata.obs["domain"].cat.codes.to_numpy(dtype=np.int32)
    levels = list(adata.obs["domain"].cat.categories)
    numbers = [str(number) for number in range(1, len(levels) + 1)]
    request = {
        "expression": side(),
        "reference": side(),
        "domains": {"codes": bytearray(codes.tobytes()), "levels": numbers},
        "labels": {"codes": bytearray(codes.tobytes()), "levels": levels},
        "label_key": "domain",
        "n_top_genes": 20,
    }
    answer = bridge.register(request)
    assert_plain(answer)
    ours = adata.copy()
    ours.obs["m2st_domain"] = adata.obs["domain"].cat.rename_categories(numbers)
    table = m2st.tl.register(ours, adata, "domain", n_top_genes=20)
    found = np.frombuffer(answer["correlation"]).reshape((len(levels), -1), order="F")
    np.testing.assert_array_equal(found, table[levels])
    assert answer["suggested"] == table["suggested"].tolist() == levels
    np.testing.assert_array_equal(np.frombuffer(answer["margin"]), table["margin"])
    request["reference"]["genes"] = "\n".join(adata.var_names).upper()
    error = bridge.register(request)["error"]
    assert "genes among the row names, found 0. They differ in upper and lower case only" in error


def factor(values: Any) -> dict[str, Any]:
    """A factor as R sends it."""
    labels = pd.Categorical(values)
    return {
        "codes": bytearray(labels.codes.astype(np.int32).tobytes()),
        "levels": list(labels.categories),
    }


def table_of(answer: dict[str, Any]) -> pd.DataFrame:
    """A table as R reads it."""
    assert_plain(answer)
    columns = {
        column["name"]: column.get("texts") or np.frombuffer(column["numbers"], np.float64)
        for column in answer["columns"]
    }
    return pd.DataFrame(columns)


def test_tables_by_section_are_those_of_python() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=40, n_domains=3, n_samples=4)
    adata.obs["m2st_domain"] = adata.obs["domain"]
    late = adata.obs["sample"].isin(["section3", "section4"])
    adata.obs["group"] = late.map({True: "late", False: "early"})
    coordinates = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    sample = factor(adata.obs["sample"])
    request = {
        "domains": factor(adata.obs["domain"]),
        "coordinates": bytearray(coordinates.tobytes(order="F")),
        "n_axes": 2,
        "sample": sample["codes"],
        "sample_names": sample["levels"],
    }
    answer = bridge.composition(request)
    expected = m2st.tl.composition(adata, "sample")
    pd.testing.assert_frame_equal(table_of(answer), expected, check_dtype=False)
    assert [column.get("whole") for column in answer["columns"]][2:4] == [True, False]
    request |= {"conditions": factor(adata.obs["group"]), "reference": "late"}
    expected = m2st.tl.compare_composition(adata, "group", "sample", reference="late")
    answer = bridge.compare_composition(request)
    pd.testing.assert_frame_equal(table_of(answer), expected, check_dtype=False)
    request |= {"conditions": sample, "reference": None}
    error = bridge.compare_composition(request)["error"]
    assert error.startswith(
        "Expected at least 2 sections of each condition, found 1 of 'section1'."
    )
    assert "m2st" not in error


def test_domains_within_domains(adata: AnnData) -> None:
    expected = run_in_python(adata)
    expected.obs.iloc[0, expected.obs.columns.get_loc("m2st_domain")] = np.nan
    merges = m2st.tl.domain_tree(expected)
    m2st.tl.split_domains(
        expected, {"2": 2}, m2st.ClusteringParams(n_init=2), random_state=7, key_added="parts"
    )

    def buffer(values: Any) -> dict[str, Any]:
        values = np.asarray(values, dtype=np.float64)
        return {"data": bytearray(values.tobytes(order="F")), "shape": list(values.shape)}

    domains = expected.obs["m2st_domain"].cat
    factor = {
        "codes": bytearray(domains.codes.to_numpy().astype(np.int32).tobytes()),
        "levels": list(domains.categories),
    }
    answer = bridge.tree({"labels": factor, "embedding": buffer(expected.obsm["X_m2st"])})
    assert_plain(answer)
    assert answer["pairs"] == merges[:, :2].astype(int).tolist()
    assert answer["costs"] == merges[:, 2].tolist()

    request = request_of(
        adata,
        scales=[buffer(expected.obsm[f"X_m2st_scale{number}"]) for number in (1, 2)],
        views={"averages": buffer(expected.obsm["X_m2st_averages"])},
        n_members=2,
        labels=factor,
        confidence=buffer(expected.obs["m2st_confidence"])["data"],
        parts={"2": 2.0},
    )
    answer = bridge.split(request)
    assert_plain(answer)
    parts = expected.obs["parts_domain"].cat
    assert answer["domains"] == list(parts.categories) == ["1", "2.1", "2.2", "3"]
    assert labels(answer) == (parts.codes + 1).tolist()
    confidence = np.frombuffer(answer["confidence"], np.float64)
    np.testing.assert_array_equal(confidence, expected.obs["parts_confidence"])
    assert answer["record"]["cluster"]["n_parts"] == [2]
    assert "embedding" not in answer
    few = bridge.split(request | {"parts": {"2": 199}})["error"]
    assert re.fullmatch(r"Expected no more parts of '2' than its \d+ spots, .*", few)
