"""The ensemble: members trained and clustered apart, in any number of processes, from arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from m2st._checks import check_int, check_target
from m2st._params import AutoencoderParams, ClusteringParams, DualParams

if TYPE_CHECKING:
    from m2st._clustering import Domains, Estimator, MultiScaleClustering
    from m2st._nn._autoencoder import MaskedGraphAutoencoder
    from m2st._nn._training import Callback, TrainingResult

# Held by the one member that this process works on.
_TURN = Lock()
# Members take over each other's optima: the best so many, for so many rounds at most.
_MAX_STARTS, _MAX_ROUNDS = 5, 3
# Rows, over all members, from which starting processes takes less time than it saves.
_WORTH_PROCESSES = 1_000_000
# Domains, of which the number is not known when members are trained.
_USUAL_DOMAINS = 10
# Bytes of the libraries in the main process, and in one of a job beside it, which shares some.
_LIBRARIES, _LIBRARIES_OF_JOB = 0.7 * 2**30, 0.35 * 2**30
# Adjusted Rand index from which two labellings lead to the same optimum.
_SAME = 0.95


class SideBySide:
    """Embeddings of all members beside each other, for each scale; put in place as they come.

    The embeddings of many observations are the largest arrays of a run, so they are held once.

    Parameters
    ----------
    valid
        Observations that have embeddings, shape (n_obs,). The others get NaN.
    n_members
        Most members that will come.
    """

    def __init__(self, valid: NDArray[np.bool_], n_members: int) -> None:
        self.n_members = 0
        self.valid, self._most = valid, n_members
        self._full: list[NDArray[np.float32]] = []
        self._widths: list[int] = []

    @classmethod
    def of(cls, members: list[list[NDArray[np.float32]]], valid: NDArray[np.bool_]) -> SideBySide:
        """Put those of several members in place."""
        found = cls(valid, len(members))
        for scales in members:
            found.add(scales)
        return found

    def add(self, scales: Sequence[NDArray[np.float32]]) -> None:
        """Put the embeddings of the next member in place, an array (n_valid, d_m) per scale."""
        if not self._full:
            self._widths = [scale.shape[1] for scale in scales]
            shapes = [(len(self.valid), self._most * width) for width in self._widths]
            self._full = [np.full(shape, np.nan, dtype=np.float32) for shape in shapes]
        for full, width, scale in zip(self._full, self._widths, scales, strict=True):
            start = self.n_members * width
            full[self.valid, start : start + width] = scale
        self.n_members += 1

    def scales(self) -> list[NDArray[np.float32]]:
        """Embeddings of each scale, shape (n_obs, E·d_m), of the members that have come."""
        if self.n_members == self._most:
            return self._full
        widths = [self.n_members * width for width in self._widths]
        return [full[:, :width].copy() for full, width in zip(self._full, widths, strict=True)]


def needed_memory(
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    params: AutoencoderParams,
    n_members: int,
    n_jobs: int | None,
) -> float:
    """Estimate of the memory that embedding and clustering take, in GiB, beside the object given.

    Embeddings of all members, their averages, which all share, and probabilities of each. In each
    job the views of a member, their representations, the costs of each domain in these and three
    more arrays of that shape, and the graph. The libraries, as they were measured.
    """
    from joblib import effective_n_jobs

    n_obs, n_features = features.shape
    jobs = min(effective_n_jobs(processes(n_jobs)), n_members)
    clustering = ClusteringParams().for_domains(_USUAL_DOMAINS)
    widths = list(params.scale_dims)
    averages = n_features if params.average_hops else 0
    n_views = len(widths) + bool(averages)
    columns = n_views * clustering.specific_dim + cast("int", clustering.common_dim)
    single = n_members * sum(widths) + averages
    double = n_members * (_USUAL_DOMAINS + 1)
    results = n_obs * (4 * single + 8 * double)
    at_work = columns + (n_views + 1 + 3) * _USUAL_DOMAINS
    job = n_obs * (4 * (sum(widths) + averages) + 8 * at_work) + 60 * adjacency.nnz
    libraries = _LIBRARIES + (jobs * _LIBRARIES_OF_JOB if jobs > 1 else 0)
    return float((results + jobs * job + libraries) / 2**30)


def train_members(
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    params: AutoencoderParams,
    seeds: list[int],
    *,
    device: str,
    n_jobs: int | None,
    progress: bool,
    callback: Callback | None,
    checkpoint: str | Path | None,
    keep: Callable[[Sequence[NDArray[np.float32]]], None],
) -> list[TrainingResult]:
    """Train a member for each seed; after an interrupt, those so far and the interrupted one.

    The embeddings of each go to `keep` as soon as they are there, and are not in the results.
    """
    from joblib import Parallel, effective_n_jobs
    from tqdm import tqdm

    from m2st._nn._training import train

    n_members = len(seeds)
    files = [
        None if checkpoint is None else f"{checkpoint}.{number}"
        for number in range(1, n_members + 1)
    ]
    for file in files:
        if file is not None:
            check_target(Path(file), (), overwrite=True)
    n_jobs = processes(n_jobs)
    if effective_n_jobs(n_jobs) > 1 and n_members > 1:
        if callback is not None:
            msg = "Expected no `callback` with several jobs, found one. Set `n_jobs=1`."
            raise ValueError(msg)
        tasks = (
            _delayed(train)(
                features, adjacency, params, random_state=seed, device=device, checkpoint=file
            )
            for seed, file in zip(seeds, files, strict=True)
        )
        done = Parallel(n_jobs=n_jobs, prefer="processes", return_as="generator")(tasks)
        bar = tqdm(done, total=n_members, disable=not progress, desc="Training members")
        return [_kept(result, keep) for result in bar]
    results: list[TrainingResult] = []
    n_epochs = params.n_epochs
    with tqdm(total=n_members * n_epochs, disable=not progress, desc="Training") as bar:
        for member, (seed, file) in enumerate(zip(seeds, files, strict=True)):

            def report(epoch: int, _: int, loss: float, member: int = member) -> object:
                epoch += member * n_epochs
                bar.n = epoch
                bar.set_postfix(member=member + 1, loss=f"{loss:.4f}", refresh=False)
                bar.update(0)
                return None if callback is None else callback(epoch, n_members * n_epochs, loss)

            result = train(
                features,
                adjacency,
                params,
                random_state=seed,
                device=device,
                callback=report,
                checkpoint=file,
            )
            # A member without any epoch has learned nothing.
            if len(result.loss) or not results:
                results.append(_kept(result, keep))
            if result.stopped == "interrupted":
                results[-1] = replace(results[-1], stopped="interrupted")
                break
        else:
            bar.n = bar.total
    return results


def _kept(
    result: TrainingResult, keep: Callable[[Sequence[NDArray[np.float32]]], None]
) -> TrainingResult:
    """Hand the embeddings over, and return the rest."""
    keep(result.embeddings)
    return replace(result, embeddings=[])


def cluster_members(
    members: list[list[NDArray[np.float32]]],
    adjacency: sparse.csr_matrix,
    n_domains: int,
    params: ClusteringParams | DualParams,
    random_state: int,
    n_jobs: int | None,
    taken: NDArray[np.intp] | None = None,
) -> list[Estimator]:
    """Cluster each member by itself; the class of the settings decides how.

    Only the observations that are `taken` have finite embeddings, and a node in the graph; None for
    all. Each member is copied without the others by itself.

    Where members do not start again (`start_again`), their representations are not kept. With many
    observations these would take more memory than the embeddings of a scale.
    """
    from joblib import Parallel

    from m2st._clustering import METHODS

    estimator = METHODS[params.method].estimator
    seeds = member_seeds(random_state, len(members))
    fits: list[Estimator] = Parallel(n_jobs=processes(n_jobs), prefer="processes")(
        _delayed(_fit_member)(
            estimator.from_params(n_domains, params, random_state=seed),
            scales,
            adjacency,
            taken,
            whole=not isinstance(params, ClusteringParams) or start_again(params),
        )
        for seed, scales in zip(seeds, members, strict=True)
    )
    return fits


def _fit_member(
    estimator: Any,
    scales: list[NDArray[np.float32]],
    adjacency: sparse.csr_matrix,
    taken: NDArray[np.intp] | None,
    *,
    whole: bool,
) -> Estimator:
    """Cluster one member, and keep its representations only if all of it is asked for."""
    if taken is not None:
        scales = [scale[taken] for scale in scales]
    fit: Estimator = estimator.fit(scales, connectivities=adjacency)
    return fit if whole else cast("MultiScaleClustering", fit).give_up_representations()


def start_again(params: ClusteringParams | DualParams) -> bool:
    """Whether members start from each other's domains, too: those of equally large domains.

    Where sizes are found, members that do so agree more than runs do.
    """
    return isinstance(params, ClusteringParams) and params.equal_sizes is None


def refit_members(
    fits: list[MultiScaleClustering], adjacency: sparse.csr_matrix, n_jobs: int | None
) -> list[MultiScaleClustering]:
    """Let each member start from what the others found, too, until none gains by it.

    The list is changed in place: a member that gained gives its room to the new one at once, and
    one that did not is not sent back from its process. At the end they give up representations.
    """
    from joblib import Parallel

    improved = fits if len(fits) > 1 else []
    for _ in range(_MAX_ROUNDS):
        # What a member kept has been tried by all.
        starts = _distinct(sorted(improved, key=lambda fit: fit.objective_[-1]))[:_MAX_STARTS]
        if not starts:
            break
        found = Parallel(n_jobs=processes(n_jobs), prefer="processes", return_as="generator")(
            _delayed(_refit_member)(fit, starts, adjacency) for fit in fits
        )
        improved = []
        for member, fit in enumerate(found):
            if fit is not None:
                fits[member] = fit
                improved.append(fit)
    return [fit.give_up_representations() for fit in fits]


def _refit_member(
    fit: MultiScaleClustering, starts: list[NDArray[np.intp]], adjacency: sparse.csr_matrix
) -> MultiScaleClustering | None:
    """The fit if it gained, else None."""
    before = fit.objective_[-1]
    fit.refit(starts, connectivities=adjacency)
    return fit if fit.objective_[-1] < before else None


def apply_members(
    networks: Sequence[MaskedGraphAutoencoder],
    domains: Sequence[Domains],
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    views: list[NDArray[np.float32]],
    n_jobs: int | None,
) -> tuple[list[list[NDArray[np.float32]]], list[NDArray[np.float64]]]:
    """Embeddings of other observations by each network, and their probabilities by its domains.

    `views` are those that all members share beside their scales. Without `domains` there are no
    probabilities. Few observations are not worth processes.
    """
    from joblib import Parallel

    n_jobs = processes(n_jobs)
    if n_jobs is not None and len(networks) * len(features) < _WORTH_PROCESSES:
        n_jobs = 1
    of_each: list[Domains | None] = [*domains] or [None] * len(networks)
    found = Parallel(n_jobs=n_jobs, prefer="processes")(
        _delayed(_apply_member)(network, some, features, adjacency, views)
        for network, some in zip(networks, of_each, strict=True)
    )
    members = [scales for scales, _ in found]
    return members, [probabilities for _, probabilities in found] if domains else []


def _apply_member(
    network: MaskedGraphAutoencoder,
    domains: Domains | None,
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    views: list[NDArray[np.float32]],
) -> tuple[list[NDArray[np.float32]], NDArray[np.float64] | None]:
    scales = network.transform(features, adjacency)
    if domains is None:
        return scales, None
    return scales, domains.predict_proba([*scales, *views], connectivities=adjacency)


def _distinct(fits: list[MultiScaleClustering]) -> list[NDArray[np.intp]]:
    """Labels of which no two are nearly the same; of those that are, the first."""
    from sklearn.metrics import adjusted_rand_score

    kept: list[NDArray[np.intp]] = []
    for fit in fits:
        if all(adjusted_rand_score(fit.labels_, other) < _SAME for other in kept):
            kept.append(fit.labels_)
    return kept


def _delayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Delay a call as joblib does, for one member, in any process.

    Arguments are bound to the function: those that joblib sees it stores on a single Dask worker,
    and with that worker they are lost.
    """
    from joblib import delayed

    return lambda *values, **named: delayed(partial(_alone, function, *values, **named))()


def _alone(function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Call a function while this process works on no other member.

    Members in threads, such as those of a Dask worker, would share torch's random stream and the
    limit on the threads of linear algebra.
    """
    with _TURN:
        return function(*values, **named)


def processes(n_jobs: int | None) -> int | None:
    """Number of jobs, but one where joblib is set to threads.

    A process has one random stream of torch's and one limit on the threads of its linear algebra,
    which members in threads would share.
    """
    from joblib.parallel import get_active_backend

    if n_jobs is not None:
        check_int("n_jobs", n_jobs, minimum=-(2**31))
        if n_jobs == 0:
            msg = (
                "Expected `n_jobs` other than 0. Pass 1 for one after the other, -1 for all cores."
            )
            raise ValueError(msg)
    backend, _ = get_active_backend(prefer="processes")
    return 1 if getattr(backend, "supports_sharedmem", False) else n_jobs


def member_seeds(random_state: int, n_members: int) -> list[int]:
    """A seed for each member, the same whatever their number."""
    return [
        int(np.random.SeedSequence([random_state, member]).generate_state(1)[0])
        for member in range(n_members)
    ]


def padded(histories: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Histories of different lengths as rows, NaN after their ends."""
    rows = np.full((len(histories), max(map(len, histories))), np.nan)
    for row, history in zip(rows, histories, strict=True):
        row[: len(history)] = history
    return rows
