"What the page of `evaluate` cannot say: agreement with scikit-learn, degenerate input, hostile names in tables."
import csv
import io
import json
import math
import re
import warnings
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)
from xray_xfer.evaluate.tables import (REPORT_TABLE, ROWS, display_name, metric_table, table_csv,
                                       table_latex, table_markdown)
from xray_xfer.evaluate.scores import metrics, per_class, softmax

fast = settings(max_examples=80, deadline=None)
MACRO = ('f1', 'precision', 'recall', 'auc')


@st.composite
def predictions(draw, least=0, classes=st.integers(2, 5)):
    "y, probs, names: coarse logits, so that ties are common; each class `least` times or more"
    k = draw(classes)
    y = list(range(k)) * least + draw(st.lists(st.integers(0, k - 1), min_size=0 if least else 1, max_size=30))
    y = np.array(draw(st.permutations(y)))
    logits = draw(arrays(np.float64, (len(y), k), elements=st.integers(-4, 4).map(float)))
    return y, softmax(logits), [f'c{i}' for i in range(k)]


@fast
@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.floats(-1e4, 1e4)),
    st.floats(-1e4, 1e4),
)
def test_softmax_is_scipys(logits, shift):
    p = softmax(logits)
    assert p.dtype == np.float64 and np.allclose(p.sum(1), 1) and np.allclose(p, scipy_softmax(logits, axis=1))
    assert np.allclose(softmax(logits + shift), p, atol=1e-9)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_softmax_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match='1 of 3 rows .*first: row 2'): softmax([[0, 1], [1, 0], [0, bad]])


def test_softmax_at_the_ends_of_the_range():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert softmax([[1.7e308, -1.7e308]]).tolist() == [[1, 0]]
        assert softmax(np.array([[60000, -60000]], np.float16)).tolist() == [[1, 0]]
        assert softmax(np.zeros((0, 3))).shape == (0, 3)
    for shape in [(3,), (2, 0), (2, 2, 2), ()]:
        with pytest.raises(ValueError, match='shape'): softmax(np.zeros(shape))


@fast
@given(predictions(least=1))
def test_agrees_with_sklearn_when_every_class_is_there(data):
    y, probs, names = data
    m, k = metrics(y, probs, names), len(names)
    assert list(m) == ['accuracy', 'f1', 'precision', 'recall', 'auc', 'loss', 'n', 'missing']
    p, r, f, _ = precision_recall_fscore_support(y, probs.argmax(1), average='macro', zero_division=0)
    auc = roc_auc_score(y, probs[:, 1]) if k == 2 else roc_auc_score(y, probs, multi_class='ovr', average='macro')
    want = dict(
        accuracy=accuracy_score(y, probs.argmax(1)),
        f1=f,
        precision=p,
        recall=r,
        auc=auc,
        loss=log_loss(y, probs, labels=range(k)),
    )
    for key, value in want.items(): assert m[key] == pytest.approx(value, abs=1e-12), key
    assert m['recall'] == pytest.approx(balanced_accuracy_score(y, probs.argmax(1)), abs=1e-12)
    assert m['n'] == len(y) and m['missing'] == []


@fast
@given(predictions())
@example((np.array([1]), np.array([[.4, .6]]), ['a', 'b']))
@example((np.array([0, 0, 0]), np.full((3, 3), 1 / 3), ['a', 'b', 'c']))
def test_whatever_is_missing_nothing_is_nan(data):
    y, probs, names = data
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # nor does scikit-learn have to complain
        m, by = metrics(y, probs, names), per_class(y, probs, names)
    assert json.loads(json.dumps(m, allow_nan=False)) == m
    there = sorted(set(y.tolist()))
    assert m['missing'] == [n for i, n in enumerate(names) if i not in there]
    assert (m['auc'] is None) == (len(there) == 1)
    for key in MACRO:  # the macro figure is the mean of the defined cells of the table
        cells = by[key].dropna()
        assert (len(cells) == 0 and m[key] is None) or m[key] == pytest.approx(cells.mean(), abs=1e-12)
    assert by.n.tolist() == [int((y == i).sum()) for i in range(len(names))]
    assert by.loc[m['missing'], list(MACRO)].isna().all(axis=None)
    assert 'nan' not in table_markdown(by).lower() and '<NA>' not in table_markdown(by)


@fast
@given(predictions())
def test_each_cell_by_counting(data):
    y, probs, names = data
    by, called = per_class(y, probs, names), probs.argmax(1)
    for c, name in enumerate(names):
        is_c, said = y == c, called == c
        tp, fp, fn, tn = (int((a & b).sum()) for a, b in ((is_c, said), (~is_c, said), (is_c, ~said), (~is_c, ~said)))
        pairs = [(a > b) + .5 * (a == b) for a in probs[is_c, c] for b in probs[~is_c, c]]
        want = dict(specificity=tn / (tn + fp) if tn + fp else None)
        if tp + fn:
            want.update(
                recall=tp / (tp + fn), precision=tp / (tp + fp) if tp + fp else 0.0, f1=2 * tp / (2 * tp + fp + fn)
            )
        if len(names) > 2: want['auc'] = float(np.mean(pairs)) if pairs else None
        for key, value in want.items():
            cell = by.loc[name, key]
            assert (pd.isna(cell) if value is None else cell == pytest.approx(value, abs=1e-12)), (name, key)


@fast
@given(predictions(classes=st.just(2)))
def test_two_classes_are_the_same_from_either_side(data):
    y, probs, names = data
    m, turned = metrics(y, probs, names), metrics(1 - y, probs[:, ::-1], names[::-1])
    assert m['auc'] == pytest.approx(turned['auc'], abs=1e-12) if m['auc'] is not None else turned['auc'] is None
    assert per_class(y, probs, names).auc.nunique() <= 1


@fast
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(data, random):
    y, probs, names = data
    order = list(range(len(y)))
    random.shuffle(order)
    a, b = metrics(y, probs, names), metrics(y[order], probs[order], names)
    assert a.keys() == b.keys() and all(a[k] == b[k] or a[k] == pytest.approx(b[k], abs=1e-12) for k in a)


def test_constant_and_certain_answers():
    y = [0, 1, 2, 0]
    m = metrics(y, np.full((4, 3), 1 / 3), 'abc')
    assert m['auc'] == .5 and m['accuracy'] == .5 and m['loss'] == pytest.approx(math.log(3))  # of equal ones the first
    m = metrics(y, np.eye(3)[y], 'abc')
    assert [m[k] for k in ('accuracy', *MACRO, 'loss')] == [1] * 5 + [0]
    m = metrics(y, np.eye(3)[[1, 2, 0, 1]], 'abc')  # certain, and wrong every time
    assert m['accuracy'] == 0 and 700 < m['loss'] < 710


def test_every_dtype_gives_the_same():
    y, logits = np.arange(12) % 4, np.random.default_rng(0).integers(-8, 8, (12, 4)) / 4  # exact in float16
    want = metrics(y, softmax(logits), 'abcd')
    assert metrics(y.astype(np.uint8), softmax(logits.astype(np.float16)), list('abcd')) == want
    assert metrics(pd.Series(y), pd.DataFrame(softmax(logits.tolist())), tuple('abcd')) == want
    import torch
    assert metrics(torch.tensor(y), softmax(torch.tensor(logits, dtype=torch.float32)), 'abcd') == want


@pytest.mark.parametrize('y, probs, classes, says', [
    ([0], [[1.]], ['a'], 'two or more different names'),
    ([0], [[.5, .5]], ['a', 'a'], 'two or more different names'),
    ([0, 1], [[.5, .5]], 'ab', r'expected \(n,\) and \(n, 2\)'),
    ([[0]], [[.5, .5]], 'ab', r'expected \(n,\)'),
    ([0], [.5, .5], 'ab', r'expected \(n,\)'),
    ([0], [[.2, .3, .5]], 'ab', r'expected \(n,\)'),
    (np.zeros(0, int), np.zeros((0, 2)), 'ab', 'is empty'),
    ([0.], [[.5, .5]], 'ab', 'float64 values'),
    ([True], [[.5, .5]], 'ab', 'bool values'),
    (['a'], [[.5, .5]], 'ab', 'give class numbers'),
    ([2], [[.5, .5]], 'ab', 'only 0 to 1'),
    ([-1], [[.5, .5]], 'ab', 'only 0 to 1'),
    ([0], [[.6, .5]], 'ab', '1 of 1 rows are no probabilities'),
    ([0], [[1.5, -.5]], 'ab', 'no probabilities'),
    ([0, 0], [[.5, .5], [np.nan, 1]], 'ab', '1 of 2 rows .*first: row 1'),
    ([0], [[np.inf, -np.inf]], 'ab', 'no probabilities'),
])
def test_input_that_does_not_fit(y, probs, classes, says):
    for judge in metrics, per_class:
        with pytest.raises(ValueError, match=says): judge(y, probs, classes)


def result(arch='efficientnet_b0', depth=0, seed=0, missing=(), **values):
    return dict(
        arch=arch,
        depth=depth,
        seed=seed,
        metrics={**dict.fromkeys(ROWS.values(), 0.5), 'missing': list(missing), **values},
    )


def test_columns_come_in_the_order_given():
    archs, depths = ('resnet18', 'shufflenetv2_050', 'efficientnet_b1'), (2, 0, 'all')
    want = [
        'resnet18_2', 'resnet18_0', 'resnet18_all', 'ShuffleNetV2x0.5_2', 'ShuffleNetV2x0.5_0',
        'ShuffleNetV2x0.5_all', 'EfficientNet-B1_2', 'EfficientNet-B1_0', 'EfficientNet-B1_all',
    ]
    runs = [result(a, d, s) for a in archs for d in depths for s in (0, 1)]
    assert metric_table(runs).columns.tolist() == want
    by_depth = [result(a, d, s) for s in (0, 1) for d in depths for a in archs]
    assert metric_table(by_depth).columns.tolist() == want
    assert metric_table(SimpleNamespace(**r) for r in runs).equals(metric_table(runs))
    assert metric_table(runs, report=True).columns.tolist() == want  # the report has none of these


@fast
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_mean_and_deviation_over_seeds(values):
    table = metric_table([result(seed=s, accuracy=v) for s, v in enumerate(values)])
    assert table.loc['Accuracy', 'EfficientNet-B0_0'] == pytest.approx(np.mean(values))
    sd = table.attrs['sd']
    assert sd.shape == table.shape and sd.columns.equals(table.columns)
    if len(values) > 1: assert sd.loc['Accuracy'].item() == pytest.approx(pd.Series(values).std(), abs=1e-12)
    else: assert sd.isna().all(axis=None) and '±' not in table_markdown(table)
    assert table.attrs['seeds'] == {'EfficientNet-B0_0': list(range(len(values)))}


def test_every_metric_has_its_interval_or_says_that_it_has_none():
    ends = dict(accuracy=[.8, .9], f1=None, precision=[.7, .9], recall=[.7, .9], auc=[.9, 1.])
    one = table_markdown(metric_table([result() | dict(metrics=result()['metrics'] | dict(intervals=ends))]))
    assert '(0.800–0.900)' in one and one.count('(interval not defined)') == 1
    several = metric_table([result(seed=s, accuracy=a) for s, a in enumerate((.90, .92, .94))])
    low, high = several.attrs['intervals']['EfficientNet-B0_0'][0]
    # Student's t of 2 degrees of freedom
    assert (low, high) == pytest.approx((.92 - 4.302653 * .02 / 3 ** .5, .92 + 4.302653 * .02 / 3 ** .5))
    assert f'0.9200 ± 0.0200 ({low:.3f}–{high:.3f} over seeds alone)' in table_markdown(several)
    assert f'{low:.3f}--{high:.3f}' in table_latex(several)


def test_what_is_not_defined_in_one_seed_is_not_defined():
    table = metric_table([result(seed=0, auc=None, missing=['COVID']), result(seed=1, auc=.9)])
    assert '| AUC | not defined |' in table_markdown(table)
    assert 'No image of COVID in the test part' in table_markdown(table, 'A study.')
    assert 'No image of COVID' in table_latex(table)
    assert 'No image' not in table_markdown(metric_table([result()]))


def test_results_that_do_not_fit():
    with pytest.raises(ValueError, match='no results'): metric_table([])
    with pytest.raises(ValueError, match='depth 1 with seed 3'): metric_table([result(depth=1, seed=3)] * 2)
    with pytest.raises(ValueError, match='is no result: it needs arch, depth and metrics'):
        metric_table([dict(arch='x', metrics={})])
    with pytest.raises(ValueError, match='is no result'): metric_table(['resnet18'])
    with pytest.raises(ValueError, match='lack f1, precision, recall, auc'):
        metric_table([dict(arch='x', depth=0, metrics=dict(accuracy=1))])


def test_the_report_is_the_reports():
    assert REPORT_TABLE.shape == (5, 6) and REPORT_TABLE.index.name == 'metric'
    assert REPORT_TABLE.loc['Recall'].tolist() == [.8988, .9131, .9448, .8920, .9231, .9304]
    assert REPORT_TABLE.loc['AUC', 'ShuffleNetV2_2'] == .9899
    runs = [result(a, d) for a in ('shufflenetv2_100', 'efficientnet_b0') for d in (0, 1, 2)]
    ours = metric_table(runs)
    assert ours.columns.equals(REPORT_TABLE.columns) and ours.index.equals(REPORT_TABLE.index)
    both = metric_table(runs, report=True)
    assert both.columns.tolist() == [c for n in REPORT_TABLE for c in (n, f'{n} (report)')]
    assert (both.filter(like='(report)').to_numpy() == REPORT_TABLE.to_numpy()).all()


def read_csv(text):
    "Columns by name, as another program would read them: texts"
    names, *rows = csv.reader(io.StringIO(text, newline=''))
    return {n: [r[i] for r in rows] for i, n in enumerate(names)}


hostile = st.text(st.characters(exclude_categories=('Cs', 'Cc', 'Zl', 'Zp')), min_size=1, max_size=12).filter(
    lambda s: s != 'metric'
) | st.sampled_from(['a|b', 'a_b', '100 %', r'\cmd{x}', '~^', 'a,b', '"q"', '胸部', 'a & b # $1'])


@fast
@given(st.lists(hostile, min_size=1, max_size=4, unique=True), st.data())
def test_round_trips(columns, data):
    values = data.draw(arrays(np.float64, (5, len(columns)), elements=st.floats(0, 1)))
    table = pd.DataFrame(values, index=REPORT_TABLE.index, columns=columns)
    back = read_csv(table_csv(table))
    assert back['metric'] == list(ROWS) and [[float(x) for x in back[c]] for c in columns] == values.T.tolist()
    lines = table_markdown(table, 'x').splitlines()
    assert lines[:2] == ['x', ''] and len(lines) == 9
    split = [re.split(r'(?<!\\)(?:\\\\)*\|', l) for l in lines[2:]]
    assert {len(s) for s in split} == {len(columns) + 3}  # no name breaks the table
    assert [[float(x) for x in s[2:-1]] for s in split[2:]] == [
        [round(float(f'{v:.4f}'), 4) for v in row] for row in values
    ]
    body = table_latex(table).split('\\midrule\n')[1].split('\n\\bottomrule')[0]
    assert [[f'{v:.4f}' for v in row] for row in values] == [
        re.split(' & | ' + re.escape('\\\\'), l)[1:-1] for l in body.splitlines()
    ]


def test_latex_is_escaped():
    tex = table_latex(
        pd.DataFrame({'a_b & 5 %': [0.5]}, index=pd.Index(['x^2~#$'], name='m')), 'from 90 ± 1 % to {1}\n\\end{table}'
    )
    assert r'a\_b \& 5 \% \\' in tex and r'x\textasciicircum{}2\textasciitilde{}\#\$ & 0.5000 \\' in tex
    assert r'\caption{from 90 $\pm$ 1 \% to \{1\} \textbackslash{}end\{table\}}' in tex
    assert tex.count('\\begin{table}') == tex.count('\\end{table}') == 1 and tex.endswith('\\end{table}\n')
    assert '\\caption' not in table_latex(REPORT_TABLE)


def test_csv_keeps_every_digit_and_the_deviations():
    values = [.1 + .2, 1 / 3, np.nextafter(.9, 1)]
    table = metric_table([result(seed=s, accuracy=v) for s, v in enumerate(values)])
    back = read_csv(table_csv(table))
    assert list(back) == [
        'metric',
        *(f'EfficientNet-B0_0{end}' for end in ('', ' (sd)', ' (low over seeds alone)', ' (high over seeds alone)')),
    ]
    assert [float(x) for x in back['EfficientNet-B0_0']] == table['EfficientNet-B0_0'].tolist()
    assert [float(x) for x in back['EfficientNet-B0_0 (sd)']] == table.attrs['sd']['EfficientNet-B0_0'].tolist()
    assert pd.read_csv(io.StringIO(table_csv(REPORT_TABLE)), index_col=0).equals(REPORT_TABLE)


def test_a_table_survives_ordinary_handling():
    table = metric_table([result(seed=s, accuracy=s / 2) for s in range(2)])
    for t in (table.copy(), table.round(4), table.T.T, table[table.columns]):
        assert t.attrs['sd'].shape == (5, 1)
    table.attrs.clear()  # the page says so: pandas compares attrs here, and cannot compare tables
    assert pd.concat([table, table.copy()], axis=1).shape == (5, 2)
    assert table.to_html() and repr(table)


def test_display_names():
    assert [
        display_name(a)
        for a in ('tf_efficientnet_b0', 'efficientnet_b1_pruned', 'shufflenetv2_100.x', 'vit_tiny_patch16_224', '')
    ] == ['tf_efficientnet_b0', 'efficientnet_b1_pruned', 'shufflenetv2_100.x', 'vit_tiny_patch16_224', '']
