"""What the pages of `resample`, `cases`, `stats`, `paired` and `readers` cannot say: agreement with slow definitions
on anything, hostile input."""
import json
import warnings
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, norm, t as student
from sklearn.metrics import roc_auc_score

from xray_xfer.evaluate.cases import count_pulls, pulls_of
from xray_xfer.evaluate.retrained import seed_spread
from xray_xfer.evaluate.scores import metrics, per_class, softmax
from xray_xfer.evaluate.paired import accuracy_difference, compare, delong, differences, holm, mcnemar, tango_interval
from xray_xfer.evaluate.readers import compare_models, model_intervals, seeds_difference
from xray_xfer.evaluate.bootstrap import MEASURES, METRICS, draws, group_ids, resampled, statistic, strata
from xray_xfer.data.split import split_of
from xray_xfer.evaluate.intervals import (auc_interval, class_intervals, combined_interval, effective_interval,
                                          interval_note, intervals, mean_interval, newcombe_interval,
                                          share_interval, with_interval)

fast = settings(max_examples=40, deadline=None)
NAMES = ['COVID', 'Normal', 'Opacity', 'Viral']


def made(seed, n=400, better=2.5, per_group=1, networks=1):
    "Classes, groups, and probabilities of networks that find the same images difficult"
    rng = np.random.default_rng(seed)
    y = np.repeat(range(4), np.round(np.array([.24, .43, .23, .10]) * n / per_group).astype(int))
    hard = rng.normal(size=(len(y), 4))
    y, hard = np.repeat(y, per_group), np.repeat(hard, per_group, axis=0)
    tables = [softmax(.84 * hard + .54 * rng.normal(size=hard.shape) + better * np.eye(4)[y]) for _ in range(networks)]
    return y, np.arange(len(y)) // per_group, *tables


@st.composite
def cases(draw, networks=1, most=30):
    "y, coarse probabilities (ties are common), classes, groups with gaps; any class may be missing"
    k, n = draw(st.integers(2, 4)), draw(st.integers(1, most))
    y = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    level = st.integers(-2, 2)
    tables = [softmax(np.array(draw(st.lists(level, min_size=n * k, max_size=n * k)), float).reshape(n, k))
              for _ in range(networks)]
    group = st.sampled_from(['a', 'b', 'c', 'd', '', None, float('nan')])
    groups = draw(st.none() | st.lists(group, min_size=n, max_size=n))
    return y, *tables, [f'c{i}' for i in range(k)], groups


# ---- resample

def test_gaps_in_groups_are_images_of_their_own():
    for gaps in ([None, None], ['', '  '], [float('nan'), pd.NA], [np.nan, pd.NaT]):
        assert group_ids(['a', gaps[0], 'a', gaps[1], 'b'], 5).tolist() == [0, 2, 0, 3, 1]
    assert group_ids(np.array(['a', np.nan, 'a', np.nan]), 4).tolist() == [0, 1, 0, 2]
    assert group_ids(pd.Series([3., np.nan, 3., np.nan]), 4).tolist() == [0, 1, 0, 2]
    assert group_ids(pd.Series(['x', None, 'x'], dtype='string'), 3).tolist() == [0, 1, 0]
    assert group_ids(pd.Categorical(['x', None, 'x']), 3).tolist() == [0, 1, 0]
    assert group_ids(range(7, 4, -1), 3).tolist() == [0, 1, 2] and group_ids([0, 0, 0], 3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match='3 groups for 2 images: give one per image'): group_ids('abc', 2)


def test_rooms_agree_on_what_a_gap_is():
    "What split keeps together and what the bootstrap draws together are the same groups"
    group = [f'p{i // 4}' if i % 5 else gap for i, gap in zip(range(400), 80 * ['nan', 'NA', 'None', '', 'unknown'])]
    table = pd.DataFrame(dict(path=[f'/x/{i}.png' for i in range(400)], label=['a', 'b'] * 200, group=group))
    part = split_of(table)
    gaps = pd.Series([i % 5 == 0 for i in range(400)])
    assert set(part[gaps]) == {'train', 'valid', 'test'}
    assert (part[~gaps].groupby(table.group[~gaps]).nunique() == 1).all()
    ids = group_ids(group, 400)
    assert len(np.unique(ids[gaps])) == 80 and len(np.unique(ids)) == 80 + table.group[~gaps].nunique()


@fast
@given(cases(), st.integers(0, 99))
def test_draws_keep_every_stratum_at_its_size(case, seed):
    y, _, _, groups = case
    ids = group_ids(groups, len(y))
    stratum = strata(y, ids)
    w = draws(stratum, 7, np.random.default_rng(seed))
    for h in np.unique(stratum): assert np.allclose(w[stratum == h].sum(0), (stratum == h).sum())
    for g in np.unique(ids):  # the only group of its class may be drawn with the mixed ones
        classes = set(y[ids == g].tolist())
        assert stratum[g] in classes | {y.max() + 1}
        if len(classes) == 1 and stratum[g] not in classes:
            assert sum(set(y[ids == h].tolist()) == classes for h in np.unique(ids)) == 1


@fast
@given(cases(), st.data())
def test_a_weight_is_a_repetition(case, data):
    y, probs, classes, _ = case
    # 1 or more: no class vanishes
    times = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(y), max_size=len(y))))
    rows = np.repeat(np.arange(len(y)), times)
    got = statistic(y, probs)(times[:, None].astype(float))[0]
    m, by = metrics(y[rows], probs[rows], classes), per_class(y[rows], probs[rows], classes)
    want = [np.nan if m[k] is None else m[k] for k in METRICS]
    assert np.allclose(got[:5], want, equal_nan=True)
    assert np.allclose(got[5:].reshape(5, -1).T, by[list(MEASURES)].to_numpy(float, na_value=np.nan), equal_nan=True)


def test_a_class_that_vanishes_is_not_defined_there():
    y, _, probs = made(0, 40)
    w = np.ones((len(y), 2))
    w[y == 3, 1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = statistic(y, probs)(w)
    assert np.isfinite(got[0]).all() and np.isfinite(got[1, 0]) and np.isnan(got[1, 1:5]).all()


# ---- cases

@fast
@given(cases())
def test_pulls_are_what_leaving_a_group_out_does(case):
    y, probs, classes, groups = case
    ids = group_ids(groups, len(y))
    number, got = ids.max() + 1, count_pulls(y, probs.argmax(1), ids, len(classes))
    assert got.shape == (number, 4)
    without, present = [], np.unique(y)
    for g in range(number):
        keep = ids != g
        if not keep.any() or set(y[keep]) != set(present): without.append([np.nan] * 4); continue
        m = metrics(y[keep], probs[keep], classes)
        without.append([m[k] for k in METRICS[:4]])
    without = np.array(without, float)
    want = (without - without.mean(0)) * np.sqrt((number - 1) / number)
    defined = np.isfinite(want).all(0) & np.isfinite(got).all(0)
    assert np.allclose(got[:, defined], want[:, defined])
    if len(present) > 1:
        assert not np.isfinite(got[:, 1:])[:, ~np.isfinite(want).all(0)[1:]].all() or np.isfinite(want).all()


# ---- stats

@fast
@given(cases())
def test_intervals_hold_their_metric_and_are_never_nan(case):
    y, probs, classes, groups = case
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found, m = intervals(y, probs, classes, groups), metrics(y, probs, classes)
        by, there = class_intervals(y, probs, classes, groups), per_class(y, probs, classes)
        note = interval_note(y, probs, classes, groups)
    json.dumps([found, by], allow_nan=False)
    assert 'nan' not in note and note.startswith('95 % intervals')
    for k, v in found.items(): assert v is None or 0 <= v[0] <= m[k] + 1e-9 and m[k] - 1e-9 <= v[1] <= 1
    for c, row in by.items():
        assert row.keys() == set(MEASURES)
        for k, v in row.items():
            if pd.isna(there.loc[c, k]): assert v is None
            assert v is None or 0 <= v[0] <= there.loc[c, k] + 1e-9 and there.loc[c, k] - 1e-9 <= v[1] <= 1


@fast
@given(st.integers(2, 400), st.data())
def test_a_share_of_independent_images_is_clopper_pearson(n, data):
    x = data.draw(st.integers(0, n))
    got = share_interval(np.arange(n) < x, np.arange(n))
    want = binomtest(x, n).proportion_ci(.95, 'exact')
    assert got == pytest.approx(tuple(want), abs=1e-9)


def test_groups_that_say_the_same_count_once():
    for per_group in (2, 5):
        right = np.random.default_rng(1).random(90) < .9
        ids = np.arange(90)
        groups = np.repeat(ids, per_group)
        once, often = share_interval(right, ids), share_interval(np.repeat(right, per_group), groups)
        assert often == pytest.approx(once, abs=2e-3)
        y, _, probs = made(1, 90)
        rows = np.repeat(np.arange(len(y)), per_group)
        a, b = intervals(y, probs, NAMES), intervals(y[rows], probs[rows], NAMES, rows)
        # of which each image counts at most once
        for k in METRICS:
            assert b[k] == pytest.approx(a[k], abs=.01 if k != 'recall' else .03)
        values = np.arange(90.)
        assert mean_interval(np.repeat(values, per_group), groups) == pytest.approx(mean_interval(values))


def test_no_group_counts_for_more_than_its_images():
    "Errors spread evenly over the groups are no more evidence than independent ones: the design effect is 1 or more"
    right = np.tile([True, True, True, False], 25)   # one error in each group
    assert share_interval(right, np.arange(100) // 4) == pytest.approx(effective_interval(.75, 0, 100, 25, 25))
    low = [share_interval(np.arange(400) >= wrong, np.arange(400) // 10)[0] for wrong in range(0, 120)]
    # an error more does not raise the lower end; the first hardly
    assert (np.diff(low)[1:] < 0).all() and low[1] - low[0] < .01


@fast
@given(st.floats(0, 1), st.floats(1, 500), st.floats(1, 500), st.floats(.5, .999))
def test_an_end_of_newcombes_interval_is_z_standard_errors_away(auc, m, n, level):
    low, high = newcombe_interval(auc, m, n, level)
    assert 0 <= low <= auc + 1e-9 and auc - 1e-9 <= high <= 1
    more, z = max((m + n) / 2 - 1, 0), norm.ppf((1 + level) / 2)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            variance = end * (1 - end) * (1 + more * (1 - end) / (2 - end) + more * end / (1 + end)) / (m * n)
            assert abs(auc - end) == pytest.approx(z * variance ** .5, rel=1e-3, abs=1e-6)
    mirrored = newcombe_interval(1 - auc, n, m, level)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-6)


def test_an_auc_is_not_surer_in_groups():
    y, ids, probs = made(5, 400, better=1.5, per_group=4)
    alone, grouped = (auc_interval(y == 1, probs[:, 1], i) for i in (np.arange(len(y)), ids))
    assert grouped[0] < alone[0] - .01 and grouped[1] > alone[1]
    perfect = np.where(y == 3, 1., 0.)
    with_it, without = np.unique(ids[y == 3]).size, np.unique(ids[y != 3]).size
    assert auc_interval(y == 3, perfect, ids) == newcombe_interval(1., with_it, without)
    assert auc_interval(y == 3, np.full(len(y), .5), ids) is None
    assert auc_interval(y == 3, perfect, np.where(y == 3, 0, np.arange(len(y)) + 1)) is None


def test_combined_intervals_of_one_and_of_independent_ones():
    ends = [(.8, .95), (.85, .97)]
    mean_ends = np.mean([.8, .85]), np.mean([.95, .97])
    assert combined_interval([.9, .93], ends, np.ones((2, 2))) == pytest.approx(mean_ends)
    low, high = combined_interval([.9, .93], ends, np.eye(2))
    assert .915 - low == pytest.approx(np.hypot(.1, .08) / 2) and high - .915 == pytest.approx(np.hypot(.05, .04) / 2)
    assert combined_interval([.9], [(.8, .95)], np.eye(1)) == pytest.approx((.8, .95))


def test_two_classes_have_one_auc():
    rng = np.random.default_rng(3)
    y = rng.integers(2, size=120)
    probs = softmax(rng.normal(size=(120, 2)) + np.eye(2)[y])
    by = class_intervals(y, probs, ['no', 'yes'])
    assert by['no']['auc'] == by['yes']['auc'] == pytest.approx(intervals(y, probs, ['no', 'yes'])['auc'])
    assert by['no']['recall'] == by['yes']['specificity']


@pytest.mark.parametrize('per_group', [1, 4])
def test_95_percent_intervals_hold_the_truth_95_times_of_100(per_group):
    y, _, probs = made(999, 200_000)
    truth, held, naive = metrics(y, probs, NAMES), np.zeros(5), 0
    for seed in range(400):
        y, ids, probs = made(seed, 160 * per_group, per_group=per_group)
        found = intervals(y, probs, NAMES, ids)
        held += [found[k][0] <= truth[k] <= found[k][1] for k in METRICS]
        low, high = intervals(y, probs, NAMES)['accuracy']
        naive += low <= truth['accuracy'] <= high
    assert (held / 400 > .92).all() and (held / 400 < .999).all(), held / 400
    if per_group > 1: assert naive / 400 < .88  # images taken for independent: the interval is too narrow


def test_what_has_no_interval():
    y, _, probs = made(2, 60)
    some = lambda found: [k for k, v in found.items() if v]
    assert some(intervals(y, np.tile([.1, .2, .3, .4], (len(y), 1)), NAMES)) == ['accuracy']   # constant probabilities
    assert some(intervals(y, probs, NAMES, groups=['all'] * len(y))) == []                     # one group
    one = [int(np.flatnonzero(y == c)[0]) for c in range(4)]
    # one image a class, all wrong: 0 of 4
    found = intervals(y[one], np.roll(np.eye(4)[y[one]], 1, 1), NAMES)
    assert some(found) == ['accuracy'] and found['accuracy'] == (0., pytest.approx(1 - .025 ** .25))
    assert 'a single image, so the macro' in interval_note(y[one], probs[one], NAMES)
    only = intervals(y[y == 1], probs[y == 1], NAMES)                                          # one class
    assert only['auc'] is None and only['accuracy']
    right = np.eye(4)[y]
    grouped = intervals(y, right, NAMES, groups=np.arange(len(y)) // 3)['accuracy']
    assert grouped[0] < intervals(y, right, NAMES)['accuracy'][0] < 1 and grouped[1] == 1
    # a recall of 1 has one, too
    assert all(v[0] < 1 == v[1] for c in class_intervals(y, right, NAMES).values() for v in c.values())


def test_the_note_says_what_cannot_be_known():
    y, _, probs = made(2, 60)
    right = np.eye(4)[y]
    wrong = right.copy(); wrong[:2] = np.roll(wrong[:2], 1, 1)
    assert 'Only 2 images of 60 are wrong' in interval_note(y, wrong, NAMES)
    assert 'Only 1 group of 30 holds an error' in interval_note(y, wrong, NAMES, np.arange(60) // 2)
    assert 'Everything is right' in interval_note(y, right, NAMES)
    assert 'Only' not in interval_note(y, np.roll(right, 1, 1), NAMES)
    assert interval_note(y, probs, NAMES).count('cannot be known') == ((probs.argmax(1) != y).sum() < 10)


@fast
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(.5, .999))
def test_the_interval_of_a_mean_holds_it(values, level):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = mean_interval(values, level=level, most=2e6)
    if found is None: return
    low, high = found
    mean = np.mean(values)
    assert 0 <= low <= mean * (1 + 1e-9) and mean * (1 - 1e-9) <= high <= 2e6


def test_what_is_refused():
    y, _, probs = made(2, 60)
    for bad, match in ((dict(level=95), 'level=95'), (dict(level=1), 'level=1'),
                       (dict(groups=['a']), '1 groups for 60')):
        with pytest.raises(ValueError, match=match): intervals(y, probs, NAMES, **bad)
        with pytest.raises(ValueError, match=match): compare(y, probs, probs, NAMES, **bad)
        with pytest.raises(ValueError, match=match): compare_models(y, dict(a=[probs], b=[probs]), NAMES, **bad)
    with pytest.raises(ValueError, match=r'softmax\(logits\)'): intervals(y, np.log(probs), NAMES)
    for values in ([1., np.nan], [1., -1.], [], [[1.]]):
        with pytest.raises(ValueError, match='one finite number of 0 or more per image'): mean_interval(values)
    with pytest.raises(ValueError, match='no values'): seed_spread([])
    with pytest.raises(ValueError, match='a metric is a finite number'): seed_spread([.9, np.inf])
    for bad in ([np.nan, 1], [.5, 0], [2, 0], ['yes', 'no']):
        with pytest.raises(ValueError, match='is no truth value'): mcnemar(bad, [0, 1])
    with pytest.raises(ValueError, match='exact=True is for independent images'):
        mcnemar([1, 0, 1], [0, 1, 1], groups=['a', 'a', 'b'], exact=True)
    with pytest.raises(ValueError, match='is empty'): compare([], np.zeros((0, 4)), np.zeros((0, 4)), NAMES)


def test_the_result_does_not_hang_on_order_or_names():
    y, ids, probs = made(3, 120, per_group=2)
    base = intervals(y, probs, NAMES, ids)
    assert base == intervals(y, probs, NAMES, [f'p{i:03}' for i in ids])
    rows = np.random.default_rng(0).permutation(len(y))
    other = intervals(y[rows], probs[rows], NAMES, ids[rows])
    for k in METRICS: assert other[k] == pytest.approx(base[k])


def test_how_it_is_printed():
    assert with_interval(.925, (.904, .944)) == '0.925 (0.904–0.944)'
    assert with_interval(.925, [.904, .944], 2) == '0.93 (0.90–0.94)'
    assert with_interval(.0075, (.0065, .0085)) == '0.008 (0.007–0.009)'   # halves are rounded up, as people do
    assert with_interval(pd.NA, None) == with_interval(float('nan'), None) == 'not defined'
    mean, sd, text = seed_spread([.9, .92])
    assert (mean, sd) == (pytest.approx(.91), pytest.approx(np.sqrt(2) / 100))
    assert 'training noise only' in text and '0.7829 to 1.0000' in text


# ---- paired

@fast
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test(rights):
    a, b = np.array(rights).T
    got = mcnemar(a, b, exact=True)
    of = got['only_a'] + got['only_b']
    assert got['p'] == pytest.approx(binomtest(got['only_a'], of).pvalue if of else 1)
    mid = mcnemar(a, b)['p']
    if got['only_a'] != got['only_b']: assert mid == pytest.approx(counted(got['only_a'], of))
    elif of: assert mid == pytest.approx(1 - comb(of, of // 2) / 2 ** of / 2)
    assert 0 < mid <= got['p'] + 1e-12


def counted(only_a, of):
    "2 P(X < less) + P(X = less), by counting"
    less = min(only_a, of - only_a)
    return (2 * sum(comb(of, i) for i in range(less)) + comb(of, less)) / 2 ** of


def test_obuchowski_1998_by_its_equations():
    rng = np.random.default_rng(0)
    groups = rng.integers(30, size=120)
    right_a, right_b = rng.random(120) < .8, rng.random(120) < .7
    ks = np.unique(groups)
    n, x1, x2 = (np.array([v[groups == k].sum() for k in ks]) for v in (np.ones(120), right_a, right_b))
    m, total = len(ks), n.sum()
    p1, p2 = x1.sum() / total, x2.sum() / total
    pooled = (p1 + p2) / 2
    cov = lambda u, v: m / (m - 1) * ((u - n * pooled) * (v - n * pooled)).sum() / total ** 2
    # never less than of independent images
    variance = max(cov(x1, x1) + cov(x2, x2) - 2 * cov(x1, x2), (right_a != right_b).sum() / total ** 2)
    statistic_ = (p1 - p2) ** 2 / variance
    got = mcnemar(right_a, right_b, groups)
    assert got['test'] == 'Obuchowski 1998' and got['p'] == pytest.approx(2 * student.sf(statistic_ ** .5, m - 1))
    d = accuracy_difference(right_a, right_b, groups)
    edge = d.interval(1 - got['p'])   # the interval at the level 1 - p ends at 0
    assert min(abs(v) for v in edge) == pytest.approx(0, abs=1e-6)
    assert mcnemar([1, 0, 1], [0, 1, 1], ['x', 'x', 'x'])['p'] is None  # one group
    assert mcnemar([1, 0, 1], [1, 0, 1], ['x', 'x', 'y'])['p'] == 1


def components(y, score, groups):
    "Obuchowski 1997 as she writes it: pairs compared one by one, sums by cluster"
    pos, neg = score[y], score[~y]
    psi = np.array([[1. if p > q else .5 if p == q else 0. for q in neg] for p in pos])
    clusters = sorted(set(groups.tolist()))
    x, z = psi.mean(1), psi.mean(0)
    gp, gn = groups[y], groups[~y]
    auc = psi.mean()
    of_positives = np.array([x[gp == c].sum() - (gp == c).sum() * auc for c in clusters])
    of_negatives = np.array([z[gn == c].sum() - (gn == c).sum() * auc for c in clusters])
    return auc, clusters, of_positives, of_negatives, gp, gn


def covariance(y, s, t, groups):
    "Equations of the paper for the covariance of two clustered AUCs"
    _, clusters, x1, z1, gp, gn = components(y, s, groups)
    _, _, x2, z2, _, _ = components(y, t, groups)
    m, n = y.sum(), (~y).sum()
    i10, i01, i = len(set(gp.tolist())), len(set(gn.tolist())), len(clusters)
    s10, s01 = i10 / ((i10 - 1) * m) * (x1 * x2).sum(), i01 / ((i01 - 1) * n) * (z1 * z2).sum()
    s11, s11_ = i / (i - 1) * (x1 * z2).sum(), i / (i - 1) * (x2 * z1).sum()
    return s10 / m + s01 / n + (s11 + s11_) / (m * n)


@pytest.mark.parametrize('groups', [np.arange(90), np.arange(90) // 3, np.random.default_rng(1).integers(25, size=90)],
                         ids=['images', 'pure', 'mixed'])
def test_delong_and_obuchowski_1997_by_their_equations(groups):
    rng = np.random.default_rng(2)
    y = rng.permutation(np.repeat(range(3), 30))
    a, b = (softmax(np.round(rng.normal(size=(90, 3)) + np.eye(3)[y], 1)) for _ in range(2))  # rounded: ties
    table = delong(y, a, b, list('xyz'), groups)
    for c in range(3):
        v = lambda s, t: covariance(y == c, s[:, c], t[:, c], groups)
        row = table.iloc[c]
        assert row.auc_a == pytest.approx(roc_auc_score(y == c, a[:, c]))
        assert [row.se_a ** 2, row.se_b ** 2, row.covariance] == pytest.approx([v(a, a), v(b, b), v(a, b)])
        assert row.se ** 2 == pytest.approx(v(a, a) + v(b, b) - 2 * v(a, b))
    # the macro AUC: the resamples say the same
    _, values = resampled(y, [a, b], group_ids(groups, 90), 4000)
    assert table.loc['macro', 'se_a'] == pytest.approx(values[0, :, 4].std(), rel=.08)
    assert table.loc['macro', 'se'] == pytest.approx((values[0] - values[1])[:, 4].std(), rel=.08)


def test_macro_of_two_classes_is_delong():
    rng = np.random.default_rng(5)
    y = rng.integers(2, size=80)
    a, b = (softmax(rng.normal(size=(80, 2)) + np.eye(2)[y]) for _ in range(2))
    for groups in (None, [f'{c}{i}' for c, i in zip(y, rng.integers(20, size=80))]):
        table = delong(y, a, b, ['no', 'yes'], groups).drop(columns='test').astype(float)
        assert np.allclose(table.loc['macro'], table.loc['yes']) and np.allclose(table.loc['no'], table.loc['yes'])


def test_hanley_mcneil_1982():
    "Their ratings of 109 CT images; the standard error is that of Stata's roctab"
    y = np.repeat([0, 1], [58, 51])
    rating = np.repeat([1, 2, 3, 4, 5] * 2, [33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    row = delong(y, np.c_[1 - rating / 6, rating / 6], np.full((109, 2), .5), ['normal', 'abnormal']).loc['abnormal']
    assert (round(row.auc_a, 4), round(row.se_a, 4)) == (.8932, .0307)
    assert (row.auc_b, row.se_b) == (.5, 0) and row.se == pytest.approx(row.se_a)


@fast
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 400), st.floats(.5, .999))
def test_tangos_interval_holds_the_difference_and_grows_with_the_level(only_a, only_b, both, level):
    n, z = only_a + only_b + both, norm.ppf((1 + level) / 2)
    low, high = tango_interval(only_a, only_b, n, z)
    d = (only_a - only_b) / n
    assert -1 <= low <= d + 1e-8 and d - 1e-8 <= high <= 1
    wider = tango_interval(only_a, only_b, n, z + .5)
    assert wider[0] <= low + 1e-8 and wider[1] >= high - 1e-8
    assert tango_interval(only_b, only_a, n, z) == pytest.approx((-high, -low), abs=1e-7)
    of = only_a + only_b
    # at 0 it is McNemar's statistic
    if of:
        assert (low > 1e-9) == (only_a > only_b and (only_a - only_b) / of ** .5 > z + 1e-9)


def test_nobody_is_surely_equal():
    "Two networks that are right on the same images have an interval of their difference, which shrinks with the images"
    right = np.ones(200)
    cases_of = (right[:50], None), (right, None), (right, np.arange(200) // 4)
    few, many, grouped = (accuracy_difference(r, r, groups).interval() for r, groups in cases_of)
    assert few[1] > many[1] > 0 > many[0] and grouped == pytest.approx(few, abs=.01)
    assert accuracy_difference([1, 0], [0, 1], ['x', 'x']).interval() is None


def test_equal_networks_are_called_different_5_times_of_100():
    false = np.zeros(5)
    for seed in range(600):
        y, ids, a, b = made(seed, 160, better=2., networks=2)
        false += [d.p < .05 for d in differences(y, a, b, NAMES, ids).values()]
    assert (false / 600 < .08).all() and (false[:4].mean() / 600 > .025), false / 600


@fast
@given(cases(networks=2, most=20))
def test_no_nan_in_a_comparison(case):
    y, a, b, classes, groups = case
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tables = (compare(y, a, b, classes, groups),
                  compare_models(y, dict(a=[a], b=[b], c=[a]), classes, groups),
                  compare_models(y, dict(a=[a, b], b=[b, a], c=[a]), classes, groups))
        model_intervals(y, [a, b], classes, groups)
    for table in tables:
        for c in table.select_dtypes('Float64'):
            assert all(v is None or np.isfinite(v) for v in table[c].astype(object).where(table[c].notna(), None))
        assert ((table.p.dropna() >= 0) & (table.p.dropna() <= 1)).all()
        both = table[table.low.notna()]
        assert (both.low <= both.difference + 1e-8).all() and (both.difference <= both.high + 1e-8).all()
    same = tables[1][(tables[1].a == 'a') & (tables[1].b == 'c')]
    assert (same.difference.dropna() == 0).all() and same.low[same.metric != 'accuracy'].isna().all()


def test_interval_and_p_never_disagree():
    "0 outside the 95 % interval: p below .05, and vice versa; of McNemar and Tango, but for very few disagreements"
    near = 0
    for seed in range(60):
        y, ids, a, b = made(seed, 80, better=1.5, networks=2)
        a[:, 0] += np.where(y == 0, .3 * (seed % 4), 0)   # from no difference to a plain one
        for r in compare(y, a / a.sum(1, keepdims=True), b, NAMES, ids if seed % 2 else ids // 2).itertuples():
            if pd.isna(r.low): continue
            near += .01 < r.p < .2
            if r.test == 'McNemar, mid-p' and .03 < r.p < .05: continue
            assert (r.low > 0 or r.high < 0) == (r.p < .05), r
    assert near > 20, near


# ---- readers

def several(seed, skills=(2.4, 2.4), seeds=3, n=120, per_group=2):
    "Classes, groups, and {model: probabilities of its networks}"
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.choice(4, n // per_group, p=[.3, .3, .2, .2]), per_group)
    hard = np.repeat(rng.normal(size=(n // per_group, 4)), per_group, axis=0)
    def one(skill):
        noise = .6 * rng.normal(size=hard.shape)
        return softmax(.7 * hard + noise + (skill + .2 * rng.normal()) * np.eye(4)[y])
    return y, np.arange(n) // per_group, {f'm{i}': [one(s) for _ in range(seeds)] for i, s in enumerate(skills)}


@pytest.mark.parametrize('metric', METRICS)
def test_obuchowski_rockette_by_its_equations(metric):
    "Readers nested in techniques (Hillis 2014): mean squares, Cov2, Cov3 written out; variances below 0 are kept there"
    for seed in range(30):
        y, ids, models = several(seed)
        j, r = METRICS.index(metric), 3
        runs = [[pulls_of(y, p, ids) for p in ps] for ps in models.values()]
        value = np.array([[run.values[j] for run in of] for of in runs])
        cov = lambda a, b: a.by_group[:, j] @ b.by_group[:, j]
        cov2 = [np.mean([cov(a, b) for a, b in combinations(of, 2)]) for of in runs]
        cov3 = np.mean([cov(a, b) for a in runs[0] for b in runs[1]])
        error = [np.mean([cov(a, a) for a in of]) - c for of, c in zip(runs, cov2)]   # variance of a score less Cov2
        square = value.var(axis=1, ddof=1)
        variance = sum(max(s, e) / r for s, e in zip(square, error)) + max(cov2[0] + cov2[1] - 2 * cov3, 0)
        of_images = sum(e / r for e in error) + max(cov2[0] + cov2[1] - 2 * cov3, 0)
        # and what the images add
        df = variance ** 2 / (sum((s / r) ** 2 / (r - 1) for s in square) + of_images ** 2 / ids.max())
        got = seeds_difference(*runs, metric)
        d = value[0].mean() - value[1].mean()
        assert got.difference == pytest.approx(d) and got.df == pytest.approx(df)
        assert got.p == pytest.approx(2 * student.sf(abs(d) / variance ** .5, df))
        half = student.ppf(.975, df) * variance ** .5
        assert got.interval() == pytest.approx((max(d - half, -1), min(d + half, 1)))


def test_seeds_are_no_rival_models():
    "24 networks of eight models: what is found does not fade with the number of seeds, nor with that of other models"
    y, ids, models = several(3, skills=(3.5,) * 7 + (.5,), seeds=3, n=400)
    table = compare_models(y, models, NAMES, ids)
    assert len(table) == 5 * 28 and (table[(table.metric == 'accuracy') & (table.b == 'm7')].p_holm < 1e-4).all()


def test_one_seed_beside_several_is_compared_as_a_trained_network():
    "Nobody knows how much it would vary: images only, and the number of seeds tells so"
    y, ids, models = several(5, seeds=4)
    a, b = ([pulls_of(y, p, ids) for p in ps] for ps in models.values())
    one, other = seeds_difference(a, b[:1], 'accuracy'), seeds_difference(b[:1], a, 'accuracy')
    assert one.test == 'jackknife' and one.df == ids.max()
    assert other.interval() == pytest.approx([-v for v in one.interval()[::-1]])
    assert other.p == pytest.approx(one.p)
    table = compare_models(y, dict(a=models['m0'], b=models['m1'][:1]), NAMES, ids)
    assert (table.seeds_a == 4).all() and (table.seeds_b == 1).all() and set(table.test) == {'jackknife'}


def test_networks_that_agree_on_every_image_have_an_interval_of_their_accuracy():
    y, ids, models = several(7)
    same = models['m0'][0]
    table = compare_models(y, dict(a=[same] * 3, b=[same] * 3), NAMES, ids).set_index('metric')
    assert table.p['accuracy'] == 1 and table.low['accuracy'] < 0 < table.high['accuracy'] and pd.isna(table.low['f1'])


@pytest.mark.parametrize('seed', range(25))
def test_holms_intervals_leave_0_out_where_holms_p_is_below_the_level(seed):
    y, ids, models = several(seed, skills=(2.4, 2.6, 3.2, 3.4), seeds=1 + seed % 3, n=240)
    table = compare_models(y, models, NAMES, ids)
    known = table[table.low_holm.notna()]
    assert len(known) and ((known.p_holm < .05) == ((known.low_holm > 0) | (known.high_holm < 0))).all()
    assert (known.low_all <= known.low_holm + 1e-12).all() and (known.low_holm <= known.low + 1e-12).all()
    assert (known.high_all >= known.high_holm - 1e-12).all() and (known.high_holm >= known.high - 1e-12).all()


def test_a_large_group_is_not_taken_for_precise():
    "A hundred images of one patient among three hundred: intervals hold the truth, tests keep their level"
    y0, _, probs0 = made(999, 200_000)
    truth, held, false, n = metrics(y0, probs0, NAMES), 0, 0, 300
    for seed in range(n):
        rng = np.random.default_rng(seed)
        ids = np.r_[np.zeros(100, int), np.arange(1, 201)]
        y = rng.choice(4, 201, p=[.24, .43, .23, .10])[ids]
        hard = rng.normal(size=(201, 4))[ids]
        a, b = (softmax(.84 * hard + .54 * rng.normal(size=hard.shape) + 2.5 * np.eye(4)[y]) for _ in range(2))
        low, high = intervals(y, a, NAMES, ids)['accuracy']
        held += low <= truth['accuracy'] <= high
        false += differences(y, a, b, NAMES, ids)['auc'].p < .05
    assert held / n > .92 and false / n < .09, (held / n, false / n)


def test_the_interval_of_a_model_is_never_shorter_than_that_of_its_networks():
    for seed in range(20):
        y, ids, models = several(seed, seeds=2 + seed % 4)
        tables = models['m0']
        each, both = [intervals(y, p, NAMES, ids) for p in tables], model_intervals(y, tables, NAMES, ids)
        for k in METRICS:
            mean = np.mean([metrics(y, p, NAMES)[k] for p in tables])
            low, high = np.mean([e[k] for e in each], axis=0)
            assert 0 <= both[k][0] <= low + 1e-9 and high - 1e-9 <= both[k][1] <= 1 and both[k][0] <= mean <= both[k][1]


def test_a_table_that_pandas_writes_and_reads(tmp_path):
    y, ids, a, b, c = made(6, 120, per_group=2, networks=3)
    named = {'ShuffleNetV2_0': a, 'ShuffleNetV2_2': b, 'EfficientNet-B0_2': c}
    table = compare_models(y, {name: [p] for name, p in named.items()}, NAMES, ids)
    columns = ('metric a b seeds_a seeds_b value_a value_b difference low high p '
               'p_holm low_holm high_holm low_all high_all df test')
    assert table.columns.tolist() == columns.split()
    assert len(table) == 15 and table.metric.drop_duplicates().tolist() == list(METRICS)
    table.to_csv(tmp_path/'compare.csv', index=False, float_format='%.9g')
    back = pd.read_csv(tmp_path/'compare.csv')
    assert np.allclose(back.difference, table.difference.astype(float)) and back.low.notna().all()
    assert np.allclose(back[back.metric == 'f1'].p_holm, holm(back[back.metric == 'f1'].p.tolist()))
    assert set(table.test) == {'Obuchowski 1998', 'jackknife', 'Obuchowski 1997'}
    values = {name: metrics(y, p, NAMES) for name, p in named.items()}
    for r in table.itertuples():
        assert (r.value_a, r.value_b) == (pytest.approx(values[r.a][r.metric]), pytest.approx(values[r.b][r.metric]))


@fast
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    subsets = [s for r in range(1, len(p) + 1) for s in combinations(range(len(p)), r)]
    want = [max(min(1, len(s) * min(p[i] for i in s)) for s in subsets if j in s) for j in range(len(p))]
    assert holm(p) == pytest.approx(want)
