"""The nine pictures of the first page show what their words say."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from kexue_ext import pictures

from kexue_lib.notebooks import chapters

ROOT = Path(__file__).resolve().parents[1]
RECORD = {
    "guidance": {"story_std": 0.3, "ode_std": 0.1, "sde_std": 0.25},
    "length_extrapolation": {"rope_full": 1.2, "rope_window": 0.01, "alibi_full": -0.01},
}


@pytest.fixture(scope="module")
def axes():
    """Return a function that gives the axes on which the drawing of a chapter has been made."""
    drawn = {}

    def draw(slug):
        if slug not in drawn:
            _, drawn[slug] = plt.subplots()
            pictures.DRAWINGS[slug][1](drawn[slug], RECORD.get(slug, {}))
        return drawn[slug]

    yield draw
    plt.close("all")


def lines(ax):
    return [line.get_xydata() for line in ax.get_lines()]


def test_each_chapter_has_one_and_the_first_page_shows_them_in_the_order_of_the_book():
    shown = re.findall(r"\{picture\}`(\w+)`", (ROOT / "book" / "intro.md").read_text("utf-8"))
    assert shown == list(chapters())
    assert set(shown) == set(pictures.DRAWINGS)


@pytest.mark.parametrize("slug", pictures.DRAWINGS)
def test_it_is_a_small_drawing_in_the_colours_of_the_page_with_words_for_who_cannot_see_it(slug):
    markup = pictures.svg(slug, RECORD.get(slug, {}))
    assert markup.startswith("<svg") and 'role="img"' in markup and "currentColor" in markup
    assert pictures.DRAWINGS[slug][0] in markup.replace("&#x27;", "'")
    assert len(markup) < 60_000
    assert not re.search(r"#000000|#ffffff|https?://(?!www\.w3\.org)", markup)


def test_hubs_are_far_out_in_a_hundred_dimensions():
    counts = pictures.card.counts()
    assert counts[3].max() < 30 < 500 < counts[100].max()
    assert (counts[100] == 0).mean() > 0.15 > 0.01 > (counts[3] == 0).mean()


def test_the_formula_for_ducks_is_right_up_to_half_a_pond_only(axes):
    formula, truth = lines(axes("sector"))[:2]
    half = formula[:, 0] <= 180
    np.testing.assert_allclose(formula[half], truth[half], rtol=1e-12)
    assert (formula[~half][:, 1] > truth[~half][:, 1]).all()
    assert truth[-1, 1] == 1 and formula[-1, 1] == 4


def test_all_paths_end_in_a_cluster_and_those_with_noise_are_longer(axes):
    paths = np.array([line[:, 1] for line in lines(axes("ddpm"))])
    assert (np.abs(paths[:, -1, None] - [-1.5, 1.0]).min(1) < 0.3).all()
    length = np.abs(np.diff(paths)).sum(1)
    assert length[-3:].min() > 3 * length[:-3].max()


def test_any_noise_ends_in_the_law_and_half_a_score_does_not(axes):
    noise, none, half, law = lines(axes("sde"))
    width = noise[1, 0] - noise[0, 0]
    true = np.interp(noise[:, 0], *law.T)
    off = [np.abs(found[:, 1] - true).sum() * width for found in (noise, none, half)]
    # With 20 000 points in 60 bins chance alone makes about sqrt(2 * 60 / (pi * 20000)) = 0.044 at most.
    assert max(off[:2]) < 0.1 < 0.4 < off[2]


def test_a_narrow_step_costs_more_than_a_wide_one_with_few_jumps_and_less_with_many(axes):
    narrow, wide = lines(axes("optimal_variance"))
    assert narrow[0, 1] > 1e6 * wide[0, 1]
    assert narrow[-1, 1] < wide[-1, 1]


def test_bells_have_the_widths_of_the_record_and_area_one(axes):
    for bell, width in zip(lines(axes("guidance")), RECORD["guidance"].values(), strict=True):
        area = np.trapezoid(bell[:, 1], bell[:, 0])
        assert area == pytest.approx(1, abs=1e-4)
        assert np.trapezoid(bell[:, 1] * bell[:, 0] ** 2, bell[:, 0]) == pytest.approx(width**2, rel=0.01)


def test_bars_are_as_long_as_the_record_says_and_missing_ones_are_missing(axes):
    bars = [bar.get_width() for bar in axes("length_extrapolation").patches]
    assert bars == list(RECORD["length_extrapolation"].values())


def test_lion_meets_one_wall_and_a_spring_its_own_place(axes):
    found = [line[-1, 1] for line in lines(axes("lion"))]
    spring, path = np.array(found[:6]), np.array(found[6:12])
    np.testing.assert_allclose(np.abs(path), 1, atol=0.02)
    np.testing.assert_allclose(spring, [-0.75, -0.5, -0.25, 0.25, 0.5, 0.75], atol=0.01)
