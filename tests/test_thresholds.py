"What the pages of thresholds, benefit and points cannot say: laws for any probabilities, ties, groups, extremes."
import json
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from scipy.stats import beta
from xray_xfer.evaluate.benefit import at_prevalence, decision_curve, net_benefit, predictive_values
from xray_xfer.evaluate.points import operating_points, point_words
from xray_xfer.evaluate.thresholds import (
    OperatingPoint, Part, Rate, Scores, called_at, operating_point, threshold_scores,
)

fast = settings(max_examples=80, deadline=None)
NAMES = ['rest', 'COVID']
shares = st.sampled_from([0.01, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
kinds = st.sampled_from(['sensitivity', 'specificity'])


@st.composite
def parts(draw, least=1, grouped=False):
    "Two classes; probabilities are 64ths, so 1 - p is exact and ties abound"
    n = draw(st.integers(least, 40))
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    p = np.array(draw(st.lists(st.integers(1, 63), min_size=n, max_size=n))) / 64
    groups = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))) if grouped else None
    return Part(y, np.c_[1 - p, p], groups)


def chosen(part, measure, wanted, by, label='COVID'):
    return operating_point(part, NAMES, label, by=by, **{measure: wanted})


def limit(rate, by): return rate.value if by == 'value' else rate.low


@fast
@given(parts(grouped=True), kinds, shares, st.sampled_from(['value', 'limit']))
def test_a_threshold_keeps_its_word_on_the_images_that_chose_it(part, measure, wanted, by):
    point = chosen(part, measure, wanted, by)
    assert (point.threshold is None) == (point.valid is None)
    if point.threshold is None:
        assert point.why.endswith('.')
        return
    assert 0 <= point.threshold <= 1
    assert limit(getattr(point.valid, measure), by) >= wanted - 1e-9
    assert point.valid == threshold_scores(part, NAMES, 'COVID', point.threshold)
    assert OperatingPoint.from_json(json.loads(json.dumps(point.as_json()))) == point


@fast
@given(parts(), kinds, shares)
def test_no_other_threshold_costs_less(part, measure, wanted):
    "Against every threshold there is, also between and beyond the probabilities"
    point = chosen(part, measure, wanted, 'value')
    assume(point.threshold is not None)
    other = {'sensitivity': 'specificity', 'specificity': 'sensitivity'}[measure]
    for t in np.arange(129) / 128:
        scores = threshold_scores(part, NAMES, 'COVID', t)
        if getattr(scores, measure).value < wanted - 1e-9 or getattr(scores, other).value is None: continue
        assert getattr(scores, other).value <= getattr(point.valid, other).value


@fast
@given(parts(grouped=True), kinds, st.sampled_from(['value', 'limit']))
def test_more_wanted_moves_it_one_way(part, measure, by):
    found = [chosen(part, measure, wanted, by).threshold for wanted in (0.05, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)]
    there = [t for t in found if t is not None]
    # what cannot be had stays so when more is wanted
    assert found[: len(there)] == there
    assert there == sorted(there, reverse=measure == 'sensitivity')


@fast
@given(parts(grouped=True), shares, st.sampled_from(['value', 'limit']))
def test_sensitivity_of_a_class_is_specificity_for_the_rest(part, wanted, by):
    of_class = chosen(part, 'sensitivity', wanted, by)
    of_rest = chosen(part, 'specificity', wanted, by, label='rest')
    assert (of_class.threshold is None) == (of_rest.threshold is None)
    assume(of_class.threshold is not None)
    assert ((part.probs[:, 1] >= of_class.threshold) == (part.probs[:, 0] < of_rest.threshold)).all()
    assert of_class.valid.sensitivity == of_rest.valid.specificity


@fast
@given(parts(grouped=True), kinds, shares, st.sampled_from(['value', 'limit']), st.randoms())
def test_the_order_of_images_does_not_matter(part, measure, wanted, by, random):
    rows = list(range(len(part.y))); random.shuffle(rows)
    mixed = Part(part.y[rows], part.probs[rows], part.groups[rows])
    a, b = chosen(part, measure, wanted, by), chosen(mixed, measure, wanted, by)
    assert (a.threshold, a.why) == (b.threshold, b.why)


@fast
@given(parts(), shares)
def test_every_image_twice_is_no_new_evidence(part, wanted):
    "As groups of two the same threshold by its value, and by its limit none that one image each did not bear out"
    assume(len(part.y) > 1)
    twice = Part(np.repeat(part.y, 2), np.repeat(part.probs, 2, axis=0), np.arange(2 * len(part.y)) // 2)
    once, again = (chosen(p, 'sensitivity', wanted, 'value').threshold for p in (part, twice))
    assert once == again
    once, again = (chosen(p, 'sensitivity', wanted, 'limit').threshold for p in (part, twice))
    assert once is not None or again is None


@pytest.mark.parametrize('m, wanted', [(72, 0.9), (100, 0.95), (300, 0.95), (40, 0.8)])
def test_the_lower_limit_is_wilks_tolerance_limit(m, wanted):
    "The most images that may be missed: P(Beta(k, m + 1 - k) >= wanted) is 97.5 % or more"
    p = np.sort(np.random.default_rng(0).random(m))
    probs = np.r_[p, np.linspace(0.001, 0.999, 50)]
    part = Part(np.r_[np.ones(m, int), np.zeros(50, int)], np.c_[1 - probs, probs])
    point = operating_point(part, NAMES, 'COVID', sensitivity=wanted, by='limit')
    k = min(k for k in range(1, m + 1) if beta.sf(wanted, k, m + 1 - k) >= 0.975)
    assert (p >= point.threshold).sum() == k


def test_few_images_cannot_show_much():
    part = Part(np.r_[np.ones(20, int), np.zeros(80, int)], np.tile([0.5, 0.5], (100, 1)))
    why = operating_point(part, NAMES, 'COVID', sensitivity=0.95, by='limit').why
    assert '20 images of COVID' in why and '0.832 at most' in why and '72 images or more' in why
    # which is the number: all of 72 called are enough, all of 71 are not
    for n, enough in ((71, False), (72, True)):
        y = np.r_[np.ones(n, int), 0]
        point = operating_point(Part(y, np.tile([0.5, 0.5], (n + 1, 1))), NAMES, 'COVID', sensitivity=0.95, by='limit')
        assert (point.threshold is not None) == enough
        assert ('called COVID' if enough else '72 images') in point.why


@pytest.mark.parametrize('p', [0.0, 1e-300, 1e-30, 0.5, 1 - 1e-16, 1.0])
@pytest.mark.parametrize('measure', ['sensitivity', 'specificity'])
def test_one_answer_for_all(p, measure):
    part = Part(np.array([0, 0, 1, 1]), np.tile([1 - p, p], (4, 1)))
    point = chosen(part, measure, 0.9, 'value')
    if measure == 'specificity' and p == 1: assert point.threshold is None and 'exactly 1' in point.why
    else: assert getattr(point.valid, measure).value == 1 and 'called' in point.why


def test_neighbouring_floats_stay_apart():
    "Where no number lies between two probabilities, the threshold is the one that is called"
    a, b = 0.3, np.nextafter(0.3, 1)
    probs = np.array([a, b])
    part = Part(np.array([0, 1]), np.c_[1 - probs, probs])
    for measure in ('sensitivity', 'specificity'):
        assert called_at(part.probs, NAMES, chosen(part, measure, 1.0, 'value')).tolist() == [0, 1]


@fast
@given(parts(least=2))
def test_predictive_values_at_the_samples_own_prevalence_are_counted(part):
    assume(0 < part.y.mean() < 1)
    called = part.probs[:, 1] >= 0.5
    found = predictive_values(threshold_scores(part, NAMES, 'COVID', 0.5), part.y.mean())
    for rate, rows, right in ((found.ppv, called, part.y == 1), (found.npv, ~called, part.y == 0)):
        if not rows.any():
            assert rate == Rate(None)
            continue
        assert rate.value == pytest.approx(right[rows].mean())
        if rate.low is not None: assert 0 <= rate.low <= rate.value + 1e-12 and rate.value - 1e-12 <= rate.high <= 1


unit = st.integers(0, 1000).map(lambda i: i / 1000)


@fast
@given(st.tuples(unit, unit, unit).map(sorted), st.tuples(unit, unit, unit).map(sorted), st.floats(0.001, 0.999))
def test_predictive_intervals_lie_between_the_ends_put_together(se, sp, prevalence):
    "Never wider than what the two lower ends, and the two upper ends, give by Bayes' rule"
    def bayes(a, b): return prevalence * a / (prevalence * a + (1 - prevalence) * (1 - b))
    (low, value, high), (lo, v, hi) = se, sp
    found = predictive_values(Scores(Rate(value, low, high), Rate(v, lo, hi), 9, 9, 9), prevalence).ppv
    if value == 0 and v == 1:
        assert found == Rate(None)
        return
    assert found.value == pytest.approx(bayes(value, v))
    assert found.low <= found.value + 1e-9 and found.value <= found.high + 1e-9
    # a root of almost 0 costs half the digits
    if lo < 1: assert found.low >= bayes(low, lo) - 1e-6
    if hi < 1 and high > 0: assert found.high <= bayes(high, hi) + 1e-6


@fast
@given(parts(least=2))
def test_a_decision_curve_is_the_formula(part):
    "Vickers & Elkin 2006: TP / n - FP / n * t / (1 - t)"
    assume(0 < part.y.mean() < 1)
    ts = [0.01, 0.25, 0.5, 0.9, 0.99]
    curve, n = decision_curve(part, NAMES, 'COVID', thresholds=ts), len(part.y)
    for t in ts:
        called = part.probs[:, 1] >= t
        tp, fp = (called & (part.y == 1)).sum(), (called & (part.y == 0)).sum()
        assert curve.net_benefit[t] == pytest.approx(tp / n - fp / n * t / (1 - t), abs=1e-12)
        assert curve.call_all[t] == pytest.approx(part.y.mean() - (1 - part.y.mean()) * t / (1 - t))
    ends = curve.dropna()
    assert ((ends.low <= ends.net_benefit + 1e-12) & (ends.net_benefit <= ends.high + 1e-12)).all()
    # no probability lies near it
    own, same = (decision_curve(part, NAMES, 'COVID', p, thresholds=[0.255]) for p in (None, part.y.mean()))
    assert same.net_benefit[0.255] == pytest.approx(own.net_benefit[0.255])


@fast
@given(st.lists(unit, min_size=1, max_size=9), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_prevalence_is_put_right_and_back(score, to, trained):
    there = at_prevalence(score, to, trained)
    assert ((0 <= there) & (there <= 1)).all()
    assert at_prevalence(there, trained, to) == pytest.approx(np.array(score), abs=1e-9)


def test_net_benefit_of_a_group_alone_has_no_interval():
    part = Part(np.array([0, 1, 1]), np.array([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]]), ['a', 'b', 'b'])
    rate = net_benefit(threshold_scores(part, NAMES, 'COVID', 0.5), 0.5, 0.1)
    assert rate.value == pytest.approx(0.1) and rate.low is None


def test_points_of_any_parts_are_json_and_sentences():
    "Three classes, one of them absent from either part, and a part of one image"
    rng = np.random.default_rng(0)
    def part(y):
        p = rng.dirichlet(np.ones(3), len(y))
        return Part(np.asarray(y), p, [None] * len(y))
    names = ['a', 'b', 'c']
    for valid, test in (([0, 1, 1, 0], [0, 1, 2, 2]), ([0, 1, 2, 2], [0, 1]), ([1], [2]), ([2, 0, 1], [0])):
        for by in ('value', 'limit'):
            found = operating_points(part(valid), part(test), names, 0.5, by=by, prevalence=dict.fromkeys(names, 0.1))
            assert json.loads(json.dumps(found, allow_nan=False)) == found
            for label, of in found['classes'].items():
                assert label in of['words'] and of['words'].endswith('.') and 'None' not in of['words']
                assert point_words(OperatingPoint.from_json(of['point'])).startswith(('Called', 'No threshold'))


def test_a_later_file_with_more_keys_is_read():
    part = Part(np.array([0, 1]), np.array([[0.7, 0.3], [0.2, 0.8]]))
    point = operating_point(part, NAMES, 'COVID', sensitivity=1.0)
    assert OperatingPoint.from_json(point.as_json() | {'later': 1}) == point
