"""The settings of the two halves of the method, each written, checked and defaulted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np

from m2st._checks import check_choice, check_int, check_interval


@dataclass(frozen=True)
class Range:
    """Kind and range of a setting: a number between two ends, yes and no, or one of a few words."""

    kind: Literal["whole", "real", "flag", "choice"]
    low: float = 1
    high: float = float("inf")
    closed: tuple[bool, bool] = (True, False)
    none: bool = False
    """Whether it may be None, which is never checked further."""
    several: bool = False
    """Whether it is a tuple of such numbers."""
    choices: tuple[str, ...] = ()
    """The words."""

    def check(self, name: str, value: object) -> None:
        """Require a value in this range."""
        if value is None and self.none:
            return
        if self.kind == "whole":
            for one in cast("tuple[int, ...]", value) if self.several else (value,):
                check_int(name, one, minimum=int(self.low))
        elif self.kind == "real":
            check_interval(name, value, self.low, self.high, closed=self.closed)
        elif self.kind == "choice":
            check_choice(name, value, self.choices)
        elif not isinstance(value, bool | np.bool_):
            msg = f"Expected `{name}` to be True or False, found {value!r}."
            raise TypeError(msg)

    def read(self, name: str, text: str) -> object:
        """Return the value that a text stands for, in this range or not."""
        if self.none and text.lower() == "none":
            return None
        if self.kind == "choice":
            return text
        if self.kind == "flag":
            if text.lower() in {"true", "false"}:
                return text.lower() == "true"
            msg = f"Expected `{name}` to be True or False, found {text!r}."
            raise ValueError(msg)
        number = int if self.kind == "whole" else float
        try:
            values = tuple(number(part) for part in (text.split(",") if self.several else [text]))
        except ValueError as error:
            wanted = "a number" if self.kind == "real" else "a whole number"
            wanted = "whole numbers such as 64,32" if self.several else wanted
            msg = f"Expected `{name}` to be {wanted}, found {text!r}."
            raise ValueError(msg) from error
        return values if self.several else values[0]


_WHOLE = Range("whole")
_SHARE = Range("real", 0, 1)
_POSITIVE = Range("real", 0, closed=(False, False))


class _Params:
    """Ranges, and conversion to and from plain values, for JSON and for ``uns``."""

    ranges: ClassVar[Mapping[str, Range]]
    """Range of each setting, in their order; R reads them from a file that a test keeps."""
    _room: ClassVar[str] = ""
    """Module of the class within the package, for messages."""

    def __post_init__(self) -> None:
        self._check()
        self._to_plain()

    def _check(self) -> None:
        """Require each setting in its range."""
        for name, one in self.ranges.items():
            one.check(name, getattr(self, name))

    @classmethod
    def of(cls, given: object, *, name: str) -> Self:
        """Return the settings that are given; the defaults if there are none."""
        if given is None:
            return cls()
        if not isinstance(given, cls):
            msg = (
                f"Expected settings of their own class as `{name}`, found {type(given).__name__}. "
                f"Write `m2st.{cls._room}{cls.__name__}(...)` with the settings by name."
            )
            raise TypeError(msg)
        return given

    def _to_plain(self) -> None:
        """Replace NumPy's numbers by Python's, which JSON and checkpoints can hold."""
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name; settings that are None are left out, as h5ad cannot hold them."""
        values = asdict(self)  # type: ignore[call-overload]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; a setting that was None is absent there and None again here."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(names))
        if unknown:
            msg = f"Expected settings among {', '.join(names)}, found {', '.join(unknown)}."
            raise ValueError(msg)
        return cls(**{name: values.get(name) for name in names})


@dataclass(frozen=True, kw_only=True)
class AutoencoderParams(_Params):
    """Architecture and training of the multi-scale masked graph autoencoder (paper, part A).

    Parameters
    ----------
    n_members
        Models of the ensemble, which differ in their seed. None takes 5, and up to 20 if there are
        few observations: models cost little then, and differ more.
    scale_dims
        Width d_m of each of the M ≥ 1 scales, equations (6) and (7). A multiple of `n_heads` each.
    hidden_dim
        Width of the shared encoder, equations (2) to (5). A multiple of `n_heads`.
    n_layers
        Attention layers of the encoder of each scale, after the shared one. An embedding sees one
        step more than this around an observation.
    average_hops
        Steps over which the features are averaged. The averages are one more view of the tissue
        beside the scales, without anything learned. With 0 there is none.
    n_heads
        Attention heads of the encoders; their outputs are concatenated. Decoders have one head.
    use_prelu
        Apply a PReLU after each layer of the encoders, as the paper does.
    negative_slope
        Slope ε of the LeakyReLU in the attention logits, in [0, 1).
    feature_dropout
        Probability with which an input of a layer is zeroed in training, in [0, 1).
    attention_dropout
        Probability with which an attention weight is zeroed in training, in [0, 1).
    mask_rate
        Share of the observations that is masked in each epoch, equation (1), in [0, 1). With 0
        nothing is masked, and the error is taken over all observations (ablations m2ST1, m2ST2).
    loss_exponent
        Exponent γ ≥ 1 of the scaled cosine error, equation (10). None replaces that error by the
        mean squared error (ablation m2ST4).
    n_epochs
        Most epochs to train. An epoch is one step of Adam on all observations. With more than
        `batch_size` observations, it is a step on eight pieces of the tissue. Every piece has its
        turn before any has a second one.
    batch_size
        Observations to train on and to embed at a time. Larger graphs are divided into pieces, and
        memory does not grow. A piece comes with neighbours as deep as there are layers, so that
        results are the same as on the whole graph.
    learning_rate
        Step size of Adam.
    weight_decay
        L2 penalty of Adam.
    patience
        Training ends early if the mean loss over this many epochs is not lower, by the share
        `min_delta`, than over as many epochs before.
    min_delta
        Relative decrease of the loss under which training has converged. With 0, all `n_epochs` are
        trained.

    Raises
    ------
    ValueError, TypeError
        If a setting is out of its range.

    Notes
    -----
    The defaults are one configuration for all data. ``docs/departures.md`` says where they and the
    published code leave the paper, and what that gains or loses.
    """

    n_members: int | None = None
    scale_dims: tuple[int, ...] = (64, 32)
    hidden_dim: int = 128
    n_layers: int = 2
    average_hops: int = 4
    n_heads: int = 4
    use_prelu: bool = False
    negative_slope: float = 0.01
    feature_dropout: float = 0.0
    attention_dropout: float = 0.0
    mask_rate: float = 0.5
    loss_exponent: float | None = 1.0
    n_epochs: int = 100
    batch_size: int = 16384
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    patience: int = 25
    min_delta: float = 2e-3

    ranges: ClassVar[Mapping[str, Range]] = {
        "n_members": Range("whole", none=True),
        "scale_dims": Range("whole", several=True),
        "hidden_dim": _WHOLE,
        "n_layers": _WHOLE,
        "average_hops": Range("whole", 0),
        "n_heads": _WHOLE,
        "use_prelu": Range("flag"),
        "negative_slope": _SHARE,
        "feature_dropout": _SHARE,
        "attention_dropout": _SHARE,
        "mask_rate": _SHARE,
        "loss_exponent": Range("real", 1, none=True),
        "n_epochs": _WHOLE,
        "batch_size": _WHOLE,
        "learning_rate": Range("real", 0, 1, closed=(False, True)),
        "weight_decay": Range("real", 0, 1, closed=(True, True)),
        "patience": _WHOLE,
        "min_delta": _SHARE,
    }

    def __post_init__(self) -> None:
        widths = cast("object", self.scale_dims)
        if isinstance(widths, str) or not isinstance(widths, Iterable):
            msg = f"Expected `scale_dims` to list a width for each scale, found {widths!r}."
            raise TypeError(msg)
        object.__setattr__(self, "scale_dims", tuple(self.scale_dims))
        if not self.scale_dims:
            msg = "Expected `scale_dims` to name at least one scale, found none."
            raise ValueError(msg)
        self._check()
        for name, width in [("hidden_dim", self.hidden_dim)] + [
            ("scale_dims", width) for width in self.scale_dims
        ]:
            if width % self.n_heads:
                msg = f"Expected `{name}` in multiples of `n_heads`, {self.n_heads}, found {width}."
                raise ValueError(msg)
        object.__setattr__(self, "scale_dims", tuple(int(width) for width in self.scale_dims))
        self._to_plain()

    def members_for(self, n_obs: int) -> int:
        """Number of members for `n_obs` observations: the one that is set, if any.

        Else as many as 10,000 observations are worth: five on 2,000 spots, twenty on 500.
        """
        return self.n_members or min(max(round(10_000 / n_obs), 5), 20)


@dataclass(frozen=True, kw_only=True)
class ClusteringParams(_Params):
    """Entropy-weighted multi-scale clustering (paper, part B).

    The paper's own clustering has other settings: `m2st.paper.DualParams`.

    Parameters
    ----------
    common_dim
        Width d_c of the representation common to all scales. None takes 15, or the number of
        domains if that is more, which is the paper's width. Fewer dimensions cannot separate the
        domains.
    specific_dim
        Width d_s of the representation specific to each scale; at most the scale's own width.
    weight_entropy
        δ > 0, weight of the entropy of the scale weights. A small one trusts one scale, a large one
        trusts all equally. At the default the common representation has all the weight on all
        tissue looked at.
    degrees_of_freedom
        ν > 0, degrees of freedom of a t distribution around a centre. The smaller they are, the
        less outlying observations count. None takes a normal distribution.
    equal_sizes
        a > 0, how strongly domains are drawn towards equal sizes: the weight of equal ones beside
        the sizes that are found, a Dirichlet distribution. None takes all as equal in size.
    smoothness
        η ≥ 0, weight of the agreement of an observation with others within four steps on the
        spatial graph. With 0, only the embeddings count.
    n_init
        Number of starts. Each runs for `short_iter` iterations on the common representation. The
        best one runs to its end on all representations.
    n_followed
        Most starts that run to their end, if they differ and are within 0.03 nats per observation
        of the best one. The lowest objective with the smoothness is taken. None takes one, or
        eight where several sections are clustered together. Always one above 20,000 observations.
    short_iter
        Iterations by which the starts are compared.
    max_iter
        Most iterations, without and again with the smoothness.
    tol
        The descent has converged if the objective, per observation, falls by less in one iteration.

    Raises
    ------
    ValueError, TypeError
        If a setting is out of its range.
    """

    common_dim: int | None = None
    specific_dim: int = 6
    weight_entropy: float = 0.3
    degrees_of_freedom: float | None = None
    equal_sizes: float | None = 0.1
    smoothness: float = 10.0
    n_init: int = 48
    n_followed: int | None = None
    short_iter: int = 30
    max_iter: int = 500
    tol: float = 1e-5

    method: ClassVar[str] = "mixture"
    ranges: ClassVar[Mapping[str, Range]] = {
        "common_dim": Range("whole", none=True),
        "specific_dim": _WHOLE,
        "weight_entropy": _POSITIVE,
        "degrees_of_freedom": Range("real", 0, closed=(False, False), none=True),
        "equal_sizes": Range("real", 0, closed=(False, False), none=True),
        "smoothness": Range("real", 0),
        "n_init": _WHOLE,
        "n_followed": Range("whole", none=True),
        "short_iter": _WHOLE,
        "max_iter": _WHOLE,
        "tol": _SHARE,
    }

    def for_domains(self, n_domains: int) -> Self:
        """Return these settings with the width of the common representation for `n_domains`."""
        return replace(self, common_dim=self.common_dim or max(15, n_domains))


@dataclass(frozen=True, kw_only=True)
class DualParams(_Params):
    """The paper's own clustering, objective (12).

    Parameters
    ----------
    common_dim
        Width d_c of the representation common to all scales. None takes the number of domains, as
        the paper does.
    specific_dim
        Width d_s of the representation specific to each scale; at most the width of its embedding.
    ridge
        β ≥ 0, weight of the squared norm of the representations.
    orthogonality
        λ ≥ 0, weight of the term that makes the centres orthonormal.
    weight_entropy
        δ > 0, weight of the entropy of the scale weights. A small one trusts one scale, a large one
        trusts all equally.
    solver
        ``"descent"`` minimises (12). ``"published"`` is the update rule of the published code, with
        which the objective may rise.
    n_init
        Number of starts of ``"descent"``; the one with the lowest objective is kept. The published
        rule has one start.
    max_iter
        Most iterations. The published rule always takes all of them.
    tol
        The descent has converged if the objective, per observation, falls by no more in one
        iteration.

    Raises
    ------
    ValueError, TypeError
        If a setting is out of its range.
    """

    common_dim: int | None = None
    specific_dim: int = 10
    ridge: float = 1.0
    orthogonality: float = 1.0
    weight_entropy: float = 1.0
    solver: Literal["descent", "published"] = "descent"
    n_init: int = 10
    max_iter: int = 100
    tol: float = 1e-6

    method: ClassVar[str] = "dual"
    _room: ClassVar[str] = "paper."
    ranges: ClassVar[Mapping[str, Range]] = {
        "common_dim": Range("whole", none=True),
        "specific_dim": _WHOLE,
        "ridge": Range("real", 0),
        "orthogonality": Range("real", 0),
        "weight_entropy": _POSITIVE,
        "solver": Range("choice", choices=("descent", "published")),
        "n_init": _WHOLE,
        "max_iter": _WHOLE,
        "tol": _SHARE,
    }

    def for_domains(self, n_domains: int) -> Self:
        """Return these settings with the width of the common representation for `n_domains`."""
        return replace(self, common_dim=self.common_dim or n_domains)


def clustering_of(
    given: ClusteringParams | DualParams | None, *, name: str
) -> ClusteringParams | DualParams:
    """Return the settings of one of the clusterings; the defaults if there are none."""
    return given if isinstance(given, DualParams) else ClusteringParams.of(given, name=name)


def read_settings(
    given: Sequence[str],
    autoencoder: AutoencoderParams,
    clustering: ClusteringParams | DualParams,
) -> tuple[AutoencoderParams, ClusteringParams | DualParams]:
    """Settings of both halves, changed by texts such as ``"tol=1e-4"``."""
    halves: tuple[_Params, ...] = (autoencoder, clustering)
    values: tuple[dict[str, Any], ...] = ({}, {})
    for setting in given:
        name, _, text = setting.partition("=")
        for half, kept in zip(halves, values, strict=True):
            if name in kept:
                msg = f"Expected each setting once, found `{name}` again."
                raise ValueError(msg)
            if name in half.ranges:
                kept[name] = half.ranges[name].read(name, text)
                break
        else:
            known = ", ".join(name for half in halves for name in half.ranges)
            msg = f"Expected settings such as tol=1e-4, found {setting!r}. There are: {known}."
            raise ValueError(msg)
    return replace(autoencoder, **values[0]), replace(clustering, **values[1])
