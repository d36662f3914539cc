"What the page of `confidence` cannot say: agreement with scikit-learn and a minimiser, ties, extremes."
import json
import warnings
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss
from xray_xfer.evaluate.calibration import (
    LEAST, MOST, brier, calibration, ece, ece_by_chance, fit_temperature, nll, reliability, scaled,
    scaled_loss,
)
from xray_xfer.evaluate.scores import metrics, softmax

fast = settings(max_examples=60, deadline=None)


@st.composite
def parts(draw, elements=st.floats(-30, 30), least=1):
    "Logits (n, k) and classes (n,)"
    k, n = draw(st.integers(2, 4)), draw(st.integers(least, 25))
    return draw(arrays(np.float64, (n, k), elements=elements)), np.array(
        draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    )


@fast
@given(parts())
def test_scores_are_scikit_learns(part):
    z, y = part
    k, p = z.shape[1], softmax(z)
    # it clips there
    if p[np.arange(len(y)), y].min() > 1e-15:
        assert nll(y, z).mean() == pytest.approx(log_loss(y, p, labels=range(k)), abs=1e-9)
    assert nll(y, z).mean() == pytest.approx(metrics(y, p, list(range(k)))['loss'], abs=1e-9)
    if k == 2: assert brier(y, p).mean() == pytest.approx(2 * brier_score_loss(y, p[:, 1], labels=[0, 1]))
    assert ((0 <= brier(y, p)) & (brier(y, p) <= 2 + 1e-12)).all()


@fast
@given(parts(st.integers(-2, 2).map(float)), st.integers(1, 20), st.randoms())
def test_ece_does_not_hang_on_the_order_of_images(part, bins, random):
    z, y = part
    rows = list(range(len(y))); random.shuffle(rows)
    assert ece(y[rows], softmax(z[rows]), bins) == pytest.approx(ece(y, softmax(z), bins))
    table = reliability(y, softmax(z), bins)
    assert sum(b['n'] for b in table) == len(y) and len(table) <= bins
    assert [b['confidence'] for b in table] == sorted(b['confidence'] for b in table)


def test_bins_are_of_equal_mass():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(1000, 3)), rng.integers(3, size=1000)
    p = softmax(z)
    order = np.argsort(p.max(1))
    # 10 divides 1,000
    want = (
        sum(abs((p[i].argmax(1) == y[i]).mean() - p[i].max(1).mean()) * len(i) for i in np.array_split(order, 10))
        / 1000
    )
    assert ece(y, p, 10) == pytest.approx(want)
    assert {b['n'] for b in reliability(y, p)} <= {66, 67}
    assert ece(y, p, 1) == pytest.approx(abs((p.argmax(1) == y).mean() - p.max(1).mean()))


def test_ece_by_chance_is_what_an_honest_network_shows():
    rng = np.random.default_rng(1)
    p = softmax(rng.normal(scale=2, size=(400, 4)))
    drawn = [ece((p.cumsum(1) > rng.random((400, 1))).argmax(1), p) for _ in range(300)]
    mean, high = ece_by_chance(p)
    assert mean == pytest.approx(np.mean(drawn), rel=.05) and high == pytest.approx(np.quantile(drawn, .95), rel=.1)


@fast
@given(parts(least=10))
@example((np.tile([0., 1.], (10, 1)), np.r_[np.zeros(5, int), np.ones(5, int)]))
def test_the_temperature_is_the_most_likely_one(part):
    z, y = part
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        t, why = fit_temperature(z, y)
    assert LEAST <= t <= MOST
    if why:
        assert t in (1, LEAST, MOST)
        return
    best = minimize_scalar(
        lambda b: nll(y, z, 1 / b).mean(), bounds=(1 / MOST, 1 / LEAST), method='bounded', options=dict(xatol=1e-10)
    )
    assert nll(y, z, t).mean() <= best.fun + 1e-9


@fast
@given(
    parts(st.floats(-1e-15, 1e-15) | st.floats(-1e5, 1e5) | st.integers(-2, 2).map(float), least=10),
    parts(st.floats(-1e-15, 1e-15) | st.floats(-1e5, 1e5) | st.integers(-2, 2).map(float)),
)
def test_no_decision_changes(valid, test):
    k = min(valid[0].shape[1], test[0].shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = calibration(valid[0][:, :k], valid[1] % k, test[0][:, :k], test[1] % k)
    json.dumps(found, allow_nan=False)
    right = lambda when: sum(b['accuracy'] * b['n'] for b in found['bins'][when])
    assert right('before') == pytest.approx(right('after'))
    assert right('before') == pytest.approx((softmax(test[0][:, :k]).argmax(1) == test[1] % k).sum())


@pytest.mark.parametrize('why, logits, y, t', [
    ('right on the whole', 20 * np.eye(3)[np.arange(30) % 3], np.arange(30) % 3, 1),
    ('above 10', 50 * np.eye(3)[np.arange(30) % 3], (np.arange(30) + 1) % 3, 10),
    ('below 0.1', .01 * np.eye(2)[[0] * 30], np.r_[1, np.zeros(29, int)], .1),
    ('all equal', np.ones((30, 3)) * np.arange(30)[:, None], np.arange(30) % 3, 1),
    ('1 validation image is', np.array([[0., 9.]]), np.array([0]), 1),
    ('0 validation images', np.zeros((0, 2)), np.zeros(0, int), 1)])
def test_validation_parts_that_cannot_tell(why, logits, y, t):
    got = fit_temperature(logits, y)
    assert got[0] == t and why in got[1]
    rng = np.random.default_rng(0)
    found = calibration(logits, y, rng.normal(size=(50, logits.shape[1])), rng.integers(logits.shape[1], size=50))
    assert found['temperature'] == t and why in found['note'] and found['fitted_on'] == len(y)
    if t == 1: assert found['before'] == found['after']


def test_extremes_and_types():
    rng = np.random.default_rng(2)
    y = rng.integers(3, size=40)
    z = rng.normal(size=(40, 3)).astype(np.float32)
    found = calibration(z, y.astype(np.int8), z.astype(np.float16), list(y))
    json.dumps(found, allow_nan=False)
    huge = 1e30 * z.astype(float)
    assert fit_temperature(huge, y)[0] == MOST and np.isfinite(nll(y, huge)).all()
    one = calibration(z, y, z[:1], y[:1])
    assert one['intervals']['after']['nll'] is None and len(one['bins']['after']) == 1
    groups = np.arange(40) // 4
    wide, narrow = (
        calibration(z, y, np.repeat(z, 4, 0), np.repeat(y, 4), groups=g)['intervals']['before']['brier']
        for g in (np.repeat(np.arange(40), 4), None)
    )
    assert wide[1] - wide[0] > 1.8 * (narrow[1] - narrow[0])
    assert groups.size == 40 and (scaled(z, 2.) == softmax(z / 2)).all()


def test_what_is_refused():
    z, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3
    for args, match in (
        ((z * np.nan, y), 'NaN'),
        ((z, y[:5]), r'y of shape \(5,\)'),
        ((z, y + 1), 'only 0 to 2'),
        ((z, y.astype(float)), 'float64'),
        ((z[0], y), 'shape'),
    ):
        with pytest.raises(ValueError, match=match): fit_temperature(*args)
        with pytest.raises(ValueError, match=match): calibration(z, y, *args)
    for t in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match='temperature='): scaled(z, t)


# Ten times the logits is all that a temperature gives: below 0.43, sixty images with one error can have the lower loss.
@given(st.integers(0, 10 ** 6), st.integers(10, 60), st.floats(.5, 20))
@settings(max_examples=60, deadline=None)
def test_an_epoch_that_errs_nowhere_beats_one_that_errs(seed, n, sure):
    "Whatever the confidence of either: 0.201 against 0.056 was once decided the other way round"
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    right = sure * (np.eye(3)[y] + .3 * rng.random((n, 3)))
    errs = 20 * np.eye(3)[y]
    errs[0] = np.roll(errs[0], 1)
    assert scaled_loss(right, y) < scaled_loss(errs, y)


@given(st.integers(0, 10 ** 6), st.floats(.2, 5))
@settings(max_examples=60, deadline=None)
def test_the_scaled_loss_is_the_least_and_knows_no_confidence(seed, factor):
    rng = np.random.default_rng(seed)
    y, z = rng.integers(3, size=40), rng.normal(size=(40, 3)) + 0.
    z[np.arange(40), y] += 1
    got = scaled_loss(z, y)
    assert all(got <= nll(y, z, t).mean() + 1e-9 for t in np.geomspace(LEAST, MOST, 50))
    t, why = fit_temperature(z, y)
    if not why and LEAST < t * factor < MOST: assert abs(scaled_loss(factor * z, y) - got) < 1e-6
    assert scaled_loss(z[:5], y[:5]) == nll(y[:5], z[:5]).mean()   # too few to fit: as they are, for every epoch
