"""What R's ``compareMethods`` asks of Python, in a process of its own: buffers in and out.

Requests and answers are those of `m2st.bridge`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2st import _keys, bridge, metrics
from m2st.compare._banksy import find_domains


def banksy(request: bridge.Request) -> bridge.Answer:
    """Domains by BANKSY, for R: its notebooks' preparation, and its own search for a resolution.

    Parameters
    ----------
    request
        Counts and places as for `m2st.bridge.run`; ``n_domains``, ``n_neighbors``, ``share``
        (lambda, the weight of the neighbours), ``max_m`` (1 adds gradients), ``random_state``.

    Returns
    -------
    ``labels``: int32, from 1; ``version``. Or ``error``.
    """

    def compute() -> bridge.Answer:
        try:
            return _banksy(request)
        except ModuleNotFoundError as error:
            if error.name not in {"banksy", "banksy_utils"}:
                raise
            msg = "The Python package 'pybanksy' is needed to run it. Run `pip install pybanksy`."
            raise ValueError(msg) from error

    return bridge.answer_safely(compute, request)


def spatial_scores(request: bridge.Request) -> bridge.Answer:
    """CHAOS and PAS of several labellings of the same observations, for R.

    Parameters
    ----------
    request
        Places as for `m2st.bridge.run`; ``labels``: int32 of each observation, for each labelling.

    Returns
    -------
    ``chaos`` and ``pas``, a number for each labelling. Or ``error``.
    """

    def compute() -> bridge.Answer:
        labels = [np.frombuffer(one, dtype=np.int32) for one in request["labels"]]
        coordinates = bridge.read_matrix(
            request["coordinates"], (len(labels[0]), request["n_axes"])
        )
        samples = request.get("sample")
        if samples is not None:
            samples = np.frombuffer(samples, dtype=np.int32)
        return {
            "chaos": [metrics.chaos(coordinates, one, samples=samples) for one in labels],
            "pas": [metrics.pas(coordinates, one, samples=samples) for one in labels],
        }

    return bridge.answer_safely(compute, request)


def _banksy(request: bridge.Request) -> bridge.Answer:
    from importlib.metadata import version

    adata = bridge.read_expression(request)
    bridge.read_place(adata, request)
    adata.obsm[_keys.COORDINATES] = _apart(adata.obsm[_keys.COORDINATES], request)
    labels = find_domains(
        adata,
        int(request["n_domains"]),
        n_neighbors=int(request["n_neighbors"]),
        share=float(request["share"]),
        max_m=int(request["max_m"]),
        random_state=int(request["random_state"]),
    )
    return {"labels": bytearray(labels.tobytes()), "version": "pybanksy " + version("pybanksy")}


def _apart(places: NDArray[np.float64], request: bridge.Request) -> NDArray[np.float64]:
    """Sections side by side, further from each other than any two places within one."""
    moved = places.copy()
    if request.get("sample") is not None:
        codes = np.frombuffer(request["sample"], dtype=np.int32)
        for code in np.unique(codes):
            moved[codes == code] -= places[codes == code].min(axis=0)
        moved[:, 0] += codes * 2 * np.linalg.norm(moved.max(axis=0))
    return moved
