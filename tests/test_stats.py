"What the pages of `resample`, `stats` and `paired` cannot say: agreement with slow definitions on anything, coverage, level, hostile input."
import json
import warnings
from itertools import combinations
from math import comb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, bootstrap, chi2
from sklearn.metrics import roc_auc_score
from xray_xfer.evaluate import metrics, per_class, softmax
from xray_xfer.paired import _p, compare, compare_all, delong, holm, mcnemar
from xray_xfer.resample import MEASURES, METRICS, draws, group_ids, influences, resampled, statistic, strata
from xray_xfer.split import split_of
from xray_xfer.stats import _interval, _shape, class_intervals, interval_note, intervals, mean_interval, seed_spread, with_interval

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
    tables = [softmax(np.array(draw(st.lists(level, min_size=n * k, max_size=n * k)), float).reshape(n, k)) for _ in range(networks)]
    groups = draw(st.none() | st.lists(st.sampled_from(['a', 'b', 'c', 'd', '', None, float('nan')]), min_size=n, max_size=n))
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
    with pytest.raises(ValueError, match='3 groups for 2 images: give one an image'): group_ids('abc', 2)


def test_rooms_agree_on_what_a_gap_is():
    "What split keeps together and what the bootstrap draws together are the same groups"
    group = [f'p{i // 4}' if i % 5 else gap for i, gap in zip(range(400), 80 * ['nan', 'NA', 'None', '', 'unknown'])]
    table = pd.DataFrame(dict(path=[f'/x/{i}.png' for i in range(400)], label=['a', 'b'] * 200, group=group))
    part = split_of(table)
    gaps = pd.Series([i % 5 == 0 for i in range(400)])
    assert set(part[gaps]) == {'train', 'valid', 'test'} and (part[~gaps].groupby(table.group[~gaps]).nunique() == 1).all()
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
        if len(classes) == 1 and stratum[g] not in classes: assert sum(set(y[ids == h].tolist()) == classes for h in np.unique(ids)) == 1


@fast
@given(cases(), st.data())
def test_a_weight_is_a_repetition(case, data):
    y, probs, classes, _ = case
    times = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(y), max_size=len(y))))  # 1 or more: no class vanishes
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


@fast
@given(cases())
def test_influences_are_derivatives(case):
    y, probs, _, _ = case
    f, got = statistic(y, probs), influences(y, probs)
    h = 1e-5
    for i in range(0, len(y), 5):
        w = np.ones((len(y), 2)); w[i] = 1 + h, 1 - h
        up, down = f(w)
        assert np.allclose(got[i], (up - down) / (2 * h), atol=1e-5, equal_nan=True)


# ---- stats

@fast
@given(cases())
def test_intervals_hold_their_metric_and_are_never_nan(case):
    y, probs, classes, groups = case
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found, m = intervals(y, probs, classes, groups, n=200), metrics(y, probs, classes)
        by, there = class_intervals(y, probs, classes, groups, n=200), per_class(y, probs, classes)
        note = interval_note(y, probs, classes, groups)
    json.dumps([found, by], allow_nan=False)
    assert 'nan' not in note and note.startswith('95 % intervals')
    for k, v in found.items(): assert v is None or -1e-9 <= v[0] <= m[k] + 1e-9 and m[k] - 1e-9 <= v[1] <= 1 + 1e-9
    for c, row in by.items():
        for k, v in row.items():
            if pd.isna(there.loc[c, k]): assert v is None
            assert v is None or v[0] - 1e-9 <= there.loc[c, k] <= v[1] + 1e-9


def test_bca_agrees_with_scipys():
    rng = np.random.default_rng(0)
    for values in (rng.random(150) < .9, rng.gamma(1, size=150)):
        values = values.astype(float)
        want = bootstrap((values,), np.mean, n_resamples=20000, method='BCa', rng=np.random.default_rng(1)).confidence_interval
        half = (want[1] - want[0]) / 2
        assert np.allclose(mean_interval(values, n=20000), want, atol=.05 * half + 1.01 / 150 * (values.max() == 1)), (values[:3], want)  # whole images, for a share


def test_bca_of_a_biased_and_skewed_statistic_agrees_with_scipys():
    x = np.random.default_rng(3).exponential(size=60)
    found = bootstrap((x,), np.var, n_resamples=20000, method='BCa', vectorized=True, rng=np.random.default_rng(4))
    values, want = found.bootstrap_distribution, found.confidence_interval
    shape = _shape(x.var(), values, ((x - x.mean()) ** 2 - x.var()) / 60)
    low, high = _interval(x.var(), shape, .95)
    assert abs(shape.z0) > .1 and low == pytest.approx(want.low, rel=.02) and high == pytest.approx(want.high, rel=.04)
    for null in np.quantile(values, [.01, .2, .9, .999]):  # p is the level whose interval ends at the hypothesis
        p = _p(shape._replace(values=values[np.argsort(values)] - null))
        assert null == pytest.approx(min(_interval(x.var(), shape, 1 - p), key=lambda end: abs(end - null)), rel=.01)


def test_classes_of_unequal_difficulty_are_strata():
    "Within classes the accuracy varies less than among all images, and influences and resamples agree on it"
    y = np.repeat([0, 1], 200)
    called = np.where(np.arange(400) % 20 < np.where(y == 0, 19, 1), y, 1 - y)  # recalls 0.95 and 0.05
    probs = .8 * np.eye(2)[called] + .1
    _, values, g = resampled(y, [probs], np.arange(400), 4000)
    sd = np.sqrt(.95 * .05 / 400)
    assert values[0, :, 0].std() == pytest.approx(sd, rel=.05) and np.sqrt((g[0, :, 0] ** 2).sum()) == pytest.approx(sd, rel=.01)
    w = draws(np.zeros(3, int), 20000, np.random.default_rng(0))
    assert np.var([0, 1, 5] @ w / 3) == pytest.approx(np.var([0, 1, 5], ddof=1) / 3, rel=.03)  # three groups: not 2/3 of it


@pytest.mark.parametrize('per_group', [1, 4])
def test_95_percent_intervals_hold_the_truth_95_times_of_100(per_group):
    y, _, probs = made(999, 200_000)
    truth, held, naive = metrics(y, probs, NAMES), np.zeros(5), 0
    for seed in range(240):
        y, ids, probs = made(seed, 160 * per_group, per_group=per_group)
        found = intervals(y, probs, NAMES, ids, n=400, seed=seed)
        held += [found[k][0] <= truth[k] <= found[k][1] for k in METRICS]
        if per_group > 1 and seed < 120:
            low, high = intervals(y, probs, NAMES, n=200, seed=seed)['accuracy']
            naive += low <= truth['accuracy'] <= high
    assert (held / 240 > .89).all() and (held[:1] / 240 < .995).all(), held / 240
    if per_group > 1: assert naive / 120 < .88  # images taken for independent: the interval is too narrow


def test_a_class_that_can_vanish_has_no_interval():
    y, _, probs = made(1, 80)
    groups = [''] * len(y)
    viral, normal = np.flatnonzero(y == 3), np.flatnonzero(y == 1)
    for i, (v, o) in enumerate(zip(viral[:3], normal)): groups[v] = groups[o] = f'mixed {i}'  # Viral only in three mixed groups ...
    keep = np.r_[np.flatnonzero(y != 3), viral[:3]]
    for i, o in enumerate(normal[10:16]): groups[o] = groups[np.flatnonzero(y == 0)[i]] = f'other {i}'  # ... of nine
    found = intervals(y[keep], probs[keep], NAMES, [groups[i] for i in keep])
    assert found['accuracy'] and not any(found[k] for k in METRICS[1:])
    assert '9 groups hold several classes and are drawn among themselves.' in interval_note(y[keep], probs[keep], NAMES, [groups[i] for i in keep])


def test_the_note_tells_groups_of_several_classes_from_those_that_join_them():
    y, _, probs = made(3, 60)
    groups = [''] * len(y)
    viral, normal = np.flatnonzero(y == 3), np.flatnonzero(y == 1)
    for v in viral[:3]: groups[v] = 'pure'   # the only group of Viral alone ...
    groups[viral[3]] = groups[normal[0]] = 'mixed'   # ... and it is resampled with this one
    keep = np.r_[np.flatnonzero(y != 3), viral[:4]]
    assert '1 group holds several classes and is drawn together with 1 that is the only one of a class.' in interval_note(y[keep], probs[keep], NAMES, [groups[i] for i in keep])


def test_stated_not_defined():
    y, _, probs = made(2, 60)
    none = dict.fromkeys(METRICS)
    assert intervals(y, np.tile([.1, .2, .3, .4], (len(y), 1)), NAMES) == none                 # constant probabilities
    assert intervals(y, np.full((len(y), 4), .25), NAMES) == none
    assert intervals(y, probs, NAMES, groups=['all'] * len(y)) == none                         # one group
    one = [int(np.flatnonzero(y == c)[0]) for c in range(4)]
    found = intervals(y[one], np.roll(np.eye(4)[y[one]], 1, 1), NAMES)                        # one image a class, all wrong: 0 of 4
    assert found == {**none, 'accuracy': (0., pytest.approx(1 - .025 ** .25))}
    assert 'a single one of the images' in interval_note(y[one], probs[one], NAMES)
    assert 'Every image is wrong' in interval_note(y[one], np.roll(np.eye(4)[y[one]], 1, 1), NAMES) and 'too narrow' not in interval_note(y[one], np.roll(np.eye(4)[y[one]], 1, 1), NAMES)
    only = intervals(y[y == 1], probs[y == 1], NAMES)                                          # one class
    assert only['auc'] is None and only['accuracy']
    right = np.eye(4)[y]
    grouped = intervals(y, right, NAMES, groups=np.arange(len(y)) // 3)['accuracy']
    assert grouped[0] < intervals(y, right, NAMES)['accuracy'][0] < 1 and grouped[1] == 1
    assert class_intervals([0, 0, 1, 1], [[.9, .1], [.6, .4], [.65, .35], [.2, .8]], ['no', 'yes'])['no'].keys() == set(MEASURES)


def test_what_is_refused():
    y, _, probs = made(2, 60)
    for bad, match in ((dict(n=99), 'n=99'), (dict(n=1e3), 'n=1000.0'), (dict(level=95), 'level=95'), (dict(level=1), 'level=1'), (dict(groups=['a']), '1 groups for 60')):
        with pytest.raises(ValueError, match=match): intervals(y, probs, NAMES, **bad)
        with pytest.raises(ValueError, match=match): compare(y, probs, probs, NAMES, **bad)
    with pytest.raises(ValueError, match=r'softmax\(logits\)'): intervals(y, np.log(probs), NAMES)
    with pytest.raises(ValueError, match='one finite number an image'): mean_interval([1., np.nan])
    with pytest.raises(ValueError, match='no values'): seed_spread([])
    with pytest.raises(ValueError, match='a metric is a finite number'): seed_spread([.9, np.inf])
    with pytest.raises(ValueError, match='n=5: give the number of resamples'): mean_interval([1., 2.], n=5)
    for bad in ([np.nan, 1], [.5, 0], [2, 0], ['yes', 'no']):
        with pytest.raises(ValueError, match='is no truth value'): mcnemar(bad, [0, 1])
    with pytest.raises(ValueError, match='exact=True is for independent images'): mcnemar([1, 0, 1], [0, 1, 1], groups=['a', 'a', 'b'], exact=True)
    with pytest.raises(ValueError, match='is empty'): compare([], np.zeros((0, 4)), np.zeros((0, 4)), NAMES)


def test_the_result_does_not_hang_on_order_or_names():
    y, ids, probs = made(3, 120, per_group=2)
    base = intervals(y, probs, NAMES, ids)
    assert base == intervals(y, probs, NAMES, [f'p{i:03}' for i in ids])
    assert base != intervals(y, probs, NAMES, ids, seed=1)
    rows = np.random.default_rng(0).permutation(len(y))
    other = intervals(y[rows], probs[rows], NAMES, ids[rows])
    for k in METRICS: assert np.allclose(other[k], base[k], atol=.015)


def test_how_it_is_printed():
    assert with_interval(.925, (.904, .944)) == '0.925 (0.904–0.944)' and with_interval(.925, [.904, .944], 2) == '0.93 (0.90–0.94)'
    assert with_interval(pd.NA, None) == with_interval(float('nan'), None) == 'not defined'
    mean, sd, text = seed_spread([.9, .92])
    assert (mean, sd) == (pytest.approx(.91), pytest.approx(np.sqrt(2) / 100)) and 'training noise only' in text and '0.7829 to 1.0371' in text


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
    statistic_ = (p1 - p2) ** 2 / (cov(x1, x1) + cov(x2, x2) - 2 * cov(x1, x2))
    got = mcnemar(right_a, right_b, groups)
    assert got['test'] == 'Obuchowski 1998' and got['p'] == pytest.approx(chi2.sf(statistic_, 1))
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
    return auc, clusters, np.array([x[gp == c].sum() - (gp == c).sum() * auc for c in clusters]), np.array([z[gn == c].sum() - (gn == c).sum() * auc for c in clusters]), gp, gn


def covariance(y, s, t, groups):
    "Equations of the paper for the covariance of two clustered AUCs"
    _, clusters, x1, z1, gp, gn = components(y, s, groups)
    _, _, x2, z2, _, _ = components(y, t, groups)
    m, n = y.sum(), (~y).sum()
    i10, i01, i = len(set(gp.tolist())), len(set(gn.tolist())), len(clusters)
    s10, s01 = i10 / ((i10 - 1) * m) * (x1 * x2).sum(), i01 / ((i01 - 1) * n) * (z1 * z2).sum()
    s11, s11_ = i / (i - 1) * (x1 * z2).sum(), i / (i - 1) * (x2 * z1).sum()
    return s10 / m + s01 / n + (s11 + s11_) / (m * n)


@pytest.mark.parametrize('groups', [np.arange(90), np.arange(90) // 3, np.random.default_rng(1).integers(25, size=90)], ids=['images', 'pure', 'mixed'])
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
    _, values, _ = resampled(y, [a, b], group_ids(groups, 90), 4000)
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


def test_equal_networks_are_called_different_5_times_of_100():
    false, classical = np.zeros(5), np.zeros(2)
    for seed in range(300):
        y, ids, a, b = made(seed, 160, better=2., networks=2)
        table = compare(y, a, b, NAMES, n=300, seed=seed)
        false += (table.p[:5] < .05).to_numpy(float)
        classical += (table.p_test[[0, 4]] < .05).to_numpy(float)
    assert (false / 300 < .1).all() and (classical / 300 < .09).all() and (false.mean() / 300 > .02), (false / 300, classical / 300)


@fast
@given(cases(networks=2, most=20))
def test_no_nan_in_a_comparison(case):
    y, a, b, classes, groups = case
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tables = compare(y, a, b, classes, groups, n=100), compare_all(y, dict(a=a, b=b, c=a), classes, groups, n=100)
    for table in tables:
        for c in table.select_dtypes('Float64'):
            assert all(v is None or np.isfinite(v) for v in table[c].astype(object).where(table[c].notna(), None))
        assert ((table.p.dropna() > 0) & (table.p.dropna() <= 1)).all()
        both = table[table.low.notna()]
        assert (both.low <= both.difference + 1e-12).all() and (both.difference <= both.high + 1e-12).all()
    same = tables[1][(tables[1].a == 'a') & (tables[1].b == 'c')]
    assert (same.difference.dropna() == 0).all() and same.low.isna().all()


def test_a_table_that_pandas_writes_and_reads(tmp_path):
    y, ids, a, b, c = made(6, 120, per_group=2, networks=3)
    table = compare_all(y, {'ShuffleNetV2_0': a, 'ShuffleNetV2_2': b, 'EfficientNet-B0_2': c}, NAMES, ids)
    assert table.columns[:10].tolist() == 'metric a b value_a value_b difference low high p p_holm'.split()
    assert len(table) == 15 and table.metric.drop_duplicates().tolist() == list(METRICS)
    table.to_csv(tmp_path/'compare.csv', index=False, float_format='%.9g')
    back = pd.read_csv(tmp_path/'compare.csv')
    assert np.allclose(back.difference, table.difference.astype(float)) and back.low.notna().all()
    assert np.allclose(back[back.metric == 'f1'].p_holm, holm(back[back.metric == 'f1'].p.tolist()))
    assert set(table.test) == {'Obuchowski 1998', 'Obuchowski 1997', ''}
    values = {name: metrics(y, p, NAMES) for name, p in zip(('ShuffleNetV2_0', 'ShuffleNetV2_2', 'EfficientNet-B0_2'), (a, b, c))}
    for r in table.itertuples(): assert (r.value_a, r.value_b) == (pytest.approx(values[r.a][r.metric]), pytest.approx(values[r.b][r.metric]))


@fast
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    subsets = [s for r in range(1, len(p) + 1) for s in combinations(range(len(p)), r)]
    want = [max(min(1, len(s) * min(p[i] for i in s)) for s in subsets if j in s) for j in range(len(p))]
    assert holm(p) == pytest.approx(want)


def test_interval_and_p_never_disagree():
    "0 outside the 95 % interval: p below .05; 0 inside it or on its end: p not below. Small test parts, where resamples tie with 0"
    near = 0
    for seed in range(40):
        y, ids, a, b = made(seed, 60, better=1.5, networks=2)
        a[:, 0] += np.where(y == 0, .3 * (seed % 4), 0)   # from no difference to a plain one
        for r in compare(y, a / a.sum(1, keepdims=True), b, NAMES, n=400).itertuples():
            if r.metric.startswith('auc of'): continue   # DeLong's own pair
            near += .01 < r.p < .2
            if r.low <= 0 <= r.high: assert r.p >= .05 - 1 / 400, r   # an end lies between two of the 400 resamples
            else: assert r.p <= .05 + 1 / 400, r
    assert near > 20, near
