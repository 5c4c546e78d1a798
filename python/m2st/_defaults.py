"""Settings that a release takes by default, kept for the releases after it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from m2st._checks import check_choice, check_int
from m2st._params import AutoencoderParams, ClusteringParams


class Defaults(NamedTuple):
    """Settings of `m2st.run` by the names of its arguments."""

    autoencoder: AutoencoderParams
    clustering: ClusteringParams


# Every setting of the first release is written out, and of each later one those that it changed, so
# that a new default changes nothing here. A release that changes one adds an entry; a new setting
# gets the value in the first entry that does what that release did.
_FIRST = Defaults(
    AutoencoderParams(
        n_members=None,
        scale_dims=(64, 32),
        hidden_dim=128,
        n_layers=2,
        average_hops=0,
        n_heads=4,
        use_prelu=False,
        negative_slope=0.01,
        feature_dropout=0.0,
        attention_dropout=0.0,
        mask_rate=0.5,
        loss_exponent=1.0,
        n_epochs=100,
        batch_size=16384,
        learning_rate=2e-3,
        weight_decay=5e-4,
        patience=25,
        min_delta=2e-3,
    ),
    ClusteringParams(
        common_dim=10,
        specific_dim=6,
        weight_entropy=0.3,
        degrees_of_freedom=8.0,
        equal_sizes=None,
        smoothness=10.0,
        n_init=12,
        n_followed=1,
        short_iter=30,
        max_iter=500,
        tol=1e-5,
    ),
)
_RELEASES = {
    "0.1": _FIRST,
    "0.2": Defaults(
        replace(_FIRST.autoencoder, average_hops=4),
        replace(
            _FIRST.clustering,
            common_dim=15,
            degrees_of_freedom=None,
            equal_sizes=0.1,
            n_init=48,
            n_followed=None,
        ),
    ),
}


def defaults(release: str, n_domains: int = 1) -> Defaults:
    """Return the settings that a release of m2ST takes by default.

    Parameters
    ----------
    release
        The release, such as ``"0.1"`` for 0.1.0 and what mends it.
    n_domains
        Number of domains of the run. With many of them, there are more common dimensions.

    Returns
    -------
    Settings named ``autoencoder`` and ``clustering``, as `m2st.run` takes them.

    Raises
    ------
    ValueError
        If there is no such release, or `n_domains` is below 1.

    Notes
    -----
    They give the domains of that release as far as its default settings decide. A mistake that was
    mended since is not brought back.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.run(adata, 7, progress=False, **m2st.defaults("0.1", 7)._asdict())
    """
    check_choice("release", release, _RELEASES)
    check_int("n_domains", n_domains, minimum=1)
    found = _RELEASES[release]
    common_dim = max(found.clustering.common_dim or 0, n_domains)
    return found._replace(clustering=replace(found.clustering, common_dim=common_dim))
