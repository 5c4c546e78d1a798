"""Intervals of shares of domains, and the test for their change, on simulated tissue.

    python -m benchmarks.composition

* Intervals: how often the interval of a share holds the share that the tissue has. Sections of 60 ×
  60 spots are windows on an endless patchwork: each spot belongs to the highest of five smooth
  random fields.
* Sections: of 200 draws of two groups of five such sections, how often any domain is called
  different without any difference, and how often a domain that grew by ten percentage points is.
* Test: of draws of two groups of five sections, how often any domain is called different without
  any difference, and how often a domain of 15 % that grew to 25 % in one group is called. Sections
  vary beyond counting (Dirichlet): a concentration c gives a share p the variance p(1-p)/(c+1).

Writes composition.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.stamp import born, stamp
from m2st._composition import compare, effective_number, log_ratios, share_interval

SIDE = 60
OFFSETS = np.array([0, 0, 0.3, -0.5, -1.5])
GROWN = np.array([0, 0, 0.3, -0.5 + 0.496, -1.5])  # 12 % become 22 %
WIDTHS = (0.01, 0.025, 0.05, 0.1, 0.2)
N_SECTIONS = 400
COMPOSITIONS = {
    4: [0.15, 0.4, 0.3, 0.15],
    7: [0.15, 0.22, 0.2, 0.15, 0.12, 0.1, 0.06],
    12: [0.15, 0.2, 0.2, 0.12, 0.1, 0.06, 0.04, 0.05, 0.03, 0.02, 0.02, 0.01],
}
N_DRAWS = 2000


def patchwork(width: float, rng: np.random.Generator, offsets: np.ndarray = OFFSETS) -> np.ndarray:
    """Domains of a section; `width` of a patch in shares of the section's."""
    sigma = width * SIDE
    margin = int(4 * sigma) + 2
    noise = rng.normal(size=(len(OFFSETS), SIDE + 2 * margin, SIDE + 2 * margin))
    fields = np.stack([gaussian_filter(one, sigma) for one in noise])
    fields = fields[:, margin:-margin, margin:-margin] * 2 * np.sqrt(np.pi) * sigma
    return (fields + offsets[:, None, None]).argmax(axis=0).ravel()


def intervals() -> list[str]:
    places = np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1).astype(float)
    lines = [
        "| width of a patch | independent spots | held, by share of the domain: "
        "2 % | 12 % | 25 % | 35 % | width at 25 % | held, spots taken as independent |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for width in WIDTHS:
        rng = np.random.default_rng(0)
        draws = [patchwork(width, rng) for _ in range(N_SECTIONS)]
        shares = np.stack([np.bincount(one, minlength=5) for one in draws]) / SIDE**2
        truth = shares.mean(axis=0)
        numbers = np.array([[effective_number(places, one, 5)] for one in draws])
        low, high = share_interval(shares, numbers)
        held = ((low <= truth) & (truth <= high)).mean(axis=0)
        error = 1.96 * np.sqrt(shares * (1 - shares) / SIDE**2)
        naive = (np.abs(shares - truth) <= error).mean()
        rare, few, some, many = held[4], held[3], held[:2].mean(), held[2]
        lines.append(
            f"| {width:.1%} | {np.median(numbers):.0f} | {rare:.2f} | {few:.2f} | {some:.2f} | "
            f"{many:.2f} | {(high - low)[:, :2].mean():.2f} | {naive:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def sections() -> list[str]:
    places = np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1).astype(float)
    groups = np.repeat([0, 1], 5)
    lines = [
        "| width of a patch | any called, no difference | grown domain called | another called |",
        "|---|---|---|---|",
    ]
    for width in WIDTHS[1:4]:
        rng = np.random.default_rng(0)
        calls = []
        for after in (OFFSETS, GROWN):
            found = []
            for _ in range(200):
                draws = [patchwork(width, rng, after if group else OFFSETS) for group in groups]
                shares = np.stack([np.bincount(one, minlength=5) for one in draws]) / SIDE**2
                numbers = np.array([effective_number(places, one, 5) for one in draws])
                change = compare(log_ratios(shares, numbers), groups, 2)
                found.append(change.p_adjusted[0] <= 0.05)
            calls.append(np.array(found))
        none, grown = calls
        others = np.delete(grown, 3, axis=1)
        lines.append(
            f"| {width:.1%} | {none.any(axis=1).mean():.3f} | {grown[:, 3].mean():.2f} | "
            f"{others.any(axis=1).mean():.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def change() -> list[str]:
    lines = [
        "| domains | sections | c | spots, effective | any called, no difference | "
        "25 % called | another called |",
        "|---|---|---|---|---|---|---|",
    ]
    cases = [(5, c, n) for c, n in ((30, 300), (100, 100), (400, 300), (50, 30))] + [(3, 400, 300)]
    for n_domains, composition in COMPOSITIONS.items():
        before = np.array(composition)
        after = before * 0.75 / 0.85
        after[0] = 0.25
        for each, spread, n_obs in cases:
            rng = np.random.default_rng(0)
            groups = np.repeat([0, 1], each)
            none, grown = (
                np.array(
                    [called(rng, before, other, groups, spread, n_obs) for _ in range(N_DRAWS)]
                )
                for other in (before, after)
            )
            lines.append(
                f"| {n_domains} | {each} + {each} | {spread} | {n_obs} | "
                f"{none.any(axis=1).mean():.3f} | {grown[:, 0].mean():.2f} | "
                f"{grown[:, 1:].any(axis=1).mean():.2f} |"
            )
            print(lines[-1], flush=True)
    return lines


def called(
    rng: np.random.Generator,
    before: np.ndarray,
    after: np.ndarray,
    groups: np.ndarray,
    spread: float,
    n_obs: int,
) -> np.ndarray:
    """Whether each domain is called different at 5 %, of one draw of sections."""
    means = np.where(groups[:, None] == 1, after, before)
    counts = np.stack([rng.multinomial(n_obs, rng.dirichlet(spread * mean)) for mean in means])
    ratios = log_ratios(counts / n_obs, np.full(len(groups), float(n_obs)))
    found = compare(ratios, groups, 2)
    return found.p_adjusted[0] <= 0.05


def main() -> None:
    path = Path(__file__).with_suffix(".md")
    parts = [
        ("Intervals", f"Of {N_SECTIONS} sections for each width, intervals at 95 %:", intervals()),
        ("Sections", "Of 200 draws each, at an adjusted p of 5 %:", sections()),
        ("Change", f"Of {N_DRAWS} draws each, at an adjusted p of 5 %:", change()),
    ]
    text = [
        f"## {title}\n\n{born([stamp()])}\n\n{head}\n\n" + "\n".join(rows)
        for title, head, rows in parts
    ]
    path.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
