from __future__ import annotations

import json
from typing import Any

import pytest

from m2st import AutoencoderParams, ClusteringParams
from m2st._params import DualParams, read_settings

DEFAULTS = (AutoencoderParams(), ClusteringParams())


@pytest.mark.parametrize("cls", [AutoencoderParams, ClusteringParams, DualParams])
def test_round_trip_through_json(
    cls: type[AutoencoderParams | ClusteringParams | DualParams],
) -> None:
    params = cls()
    assert cls.from_dict(json.loads(json.dumps(params.to_dict()))) == params


def test_none_survives() -> None:
    params = AutoencoderParams(loss_exponent=None)
    assert "loss_exponent" not in params.to_dict()
    assert AutoencoderParams.from_dict(params.to_dict()).loss_exponent is None


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected settings among n_members, .* found epochs"):
        AutoencoderParams.from_dict({"epochs": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_rate": 1.2}, r"Expected `mask_rate` in \[0, 1\), found 1.2"),
        ({"mask_rate": 1}, r"Expected `mask_rate` in \[0, 1\), found 1"),
        ({"loss_exponent": 0.5}, r"Expected `loss_exponent` in \[1, inf\), found 0.5"),
        ({"n_members": 0}, "Expected `n_members` to be at least 1, found 0"),
        ({"n_layers": 0}, "Expected `n_layers` to be at least 1, found 0"),
        ({"n_epochs": 0}, "Expected `n_epochs` to be at least 1, found 0"),
        ({"scale_dims": ()}, "Expected `scale_dims` to name at least one scale"),
        ({"scale_dims": (30,)}, "Expected `scale_dims` in multiples of `n_heads`, 4, found 30"),
        ({"hidden_dim": 30}, "Expected `hidden_dim` in multiples of `n_heads`, 4, found 30"),
        ({"learning_rate": 0}, r"Expected `learning_rate` in \(0, 1\], found 0"),
    ],
)
def test_autoencoder_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderParams(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_entropy": 0}, r"Expected `weight_entropy` in \(0, inf\), found 0"),
        ({"degrees_of_freedom": 0}, r"Expected `degrees_of_freedom` in \(0, inf\), found 0"),
        ({"smoothness": -1}, r"Expected `smoothness` in \[0, inf\), found -1"),
        ({"tol": 1}, r"Expected `tol` in \[0, 1\), found 1"),
        ({"short_iter": 0}, "Expected `short_iter` to be at least 1, found 0"),
        ({"max_iter": 0}, "Expected `max_iter` to be at least 1, found 0"),
        ({"specific_dim": 0}, "Expected `specific_dim` to be at least 1, found 0"),
        ({"n_init": 0}, "Expected `n_init` to be at least 1, found 0"),
        ({"common_dim": 0}, "Expected `common_dim` to be at least 1, found 0"),
    ],
)
def test_clustering_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusteringParams(**settings)


def test_types_are_checked() -> None:
    with pytest.raises(TypeError, match=r"Expected `n_epochs` to be a whole number, found 2.5"):
        AutoencoderParams(n_epochs=2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Expected `mask_rate` in \[0, 1\), found 'half'"):
        AutoencoderParams(mask_rate="half")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="found True"):
        AutoencoderParams(n_epochs=True)
    with pytest.raises(TypeError, match=r"Expected `n_members` to be a whole number, found 2.0"):
        AutoencoderParams(n_members=2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected `use_prelu` to be True or False, found 'no'"):
        AutoencoderParams(use_prelu="no")  # type: ignore[arg-type]


def test_settings_are_read_from_text() -> None:
    given = ["n_epochs=7", "scale_dims=8,4", "use_prelu=true", "loss_exponent=None", "tol=1e-3"]
    assert read_settings(given, *DEFAULTS) == (
        AutoencoderParams(n_epochs=7, scale_dims=(8, 4), use_prelu=True, loss_exponent=None),
        ClusteringParams(tol=1e-3),
    )
    assert read_settings([], *DEFAULTS) == DEFAULTS


def test_settings_of_the_paper_start_from_its_own() -> None:
    base = AutoencoderParams(use_prelu=True)
    found = read_settings(["solver=published", "n_epochs=7"], base, DualParams(ridge=2))
    assert found == (
        AutoencoderParams(use_prelu=True, n_epochs=7),
        DualParams(ridge=2, solver="published"),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["smooth=1"],
            "Expected settings such as tol=1e-4, found 'smooth=1'. There are: ",
        ),
        (["tol"], "Expected `tol` to be a number, found ''"),
        (["n_epochs=2.5"], "Expected `n_epochs` to be a whole number, found '2.5'"),
        (
            ["scale_dims=8;4"],
            "Expected `scale_dims` to be whole numbers such as 64,32",
        ),
        (["use_prelu=yes"], "Expected `use_prelu` to be True or False, found 'yes'"),
        (["tol=0.1", "tol=0.2"], "Expected each setting once, found `tol` again"),
        (["tol=nan"], r"Expected `tol` in \[0, 1\), found nan"),
    ],
)
def test_settings_that_cannot_be_read(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(given, *DEFAULTS)


@pytest.mark.parametrize(("n_obs", "expected"), [(50, 20), (500, 20), (1_000, 10), (10**6, 5)])
def test_small_data_get_more_members(n_obs: int, expected: int) -> None:
    assert AutoencoderParams().members_for(n_obs) == expected
    assert AutoencoderParams(n_members=3).members_for(n_obs) == 3
