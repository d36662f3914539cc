"Controls: masks and boxes of all kinds, the rule over made-up scores, and runs whose data is not what it was."
import json, shutil, warnings

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from reference import wrong_of_run

from xray_xfer.controls import ask as module, shuffles
from xray_xfer.data import demo
from xray_xfer.report import verdict as words
from xray_xfer.report.card import model_card
from xray_xfer.evaluate.chance import above_zero, looks, paired, permuted_labels
from xray_xfer.evaluate.paired import holm
from xray_xfer.controls.ask import CONTROLS, by_source, controls, source_alone
from xray_xfer.runs.folder import load_controls
from xray_xfer.data.table import images_of
from xray_xfer.evaluate.scores import metrics
from xray_xfer.controls.lungs import BOX, MASKS, donors, lung_box, lungs_of, read_mask
from xray_xfer.data.packing import pack
from xray_xfer.report.compared import report
from xray_xfer.controls.figure import controls_figure
from xray_xfer.evaluate.bootstrap import group_ids
from xray_xfer.report.results import load_study
from xray_xfer.report.tally import controls_lines, controls_table
from xray_xfer.train import run
from xray_xfer.report.verdict import (
    BORDER, COARSE, INTACT, NO_LUNGS, ONLY_LUNGS, OTHER_LUNGS, findings, sentence_of, verdict,
)

SMALL = dict(arch='shufflenetv2_050', pretrained=False, size=64, epochs=1, bs=16, quiet=True)

@pytest.fixture(scope='module')
def filed(xrays, tmp_path_factory): return run(xrays, **SMALL, out=tmp_path_factory.mktemp('runs')).path

@pytest.fixture
def folder(filed, tmp_path): return shutil.copytree(filed, tmp_path/'run')

# ---- where the lungs are

@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(8, 90), st.integers(8, 90))))
def test_any_image_has_a_box_that_holds_the_smallest_one(image):
    left, top, right, bottom = lung_box(image)
    assert 0 <= left <= .12 and 0 <= top <= .10 and .88 <= right <= 1 and .78 <= bottom <= 1

def test_box_does_not_depend_on_exposure_or_size(xrays):
    image = np.asarray(Image.open(images_of(xrays).path[0]))
    # brightness and contrast, within what 8 bits hold
    assert np.allclose(lung_box((image*.5 + 20).astype(np.uint8)), lung_box(image), atol=1/32)
    assert np.allclose(lung_box(np.kron(image, np.ones((3, 3), np.uint8))), lung_box(image))
    mirrored = lung_box(np.ascontiguousarray(image[:, ::-1]))
    assert np.allclose((1 - mirrored[2], 1 - mirrored[0]), lung_box(image)[::2], atol=1/32)

@pytest.mark.parametrize('resize', ['squish', 'pad'])
@pytest.mark.parametrize('shape', [(299, 299), (300, 200)])   # of the image; its mask is smaller, as Kaggle's are
def test_mask_lies_where_the_image_does(tmp_path, resize, shape):
    h, w = shape
    image = np.full(shape, 10, np.uint8)
    image[h//4:h//2, w//5:w//2] = 250
    Image.fromarray(image).save(tmp_path/'image.png')
    small = Image.fromarray(((image > 100) * 255).astype(np.uint8)).resize(
        (round(w * 256 / 299), round(h * 256 / 299)), Image.Resampling.NEAREST
    )
    small.convert('RGB').save(tmp_path/'mask.png')            # Kaggle's are colour files
    mask = read_mask(tmp_path/'mask.png', tmp_path/'image.png', 224, resize)
    table = pd.DataFrame(dict(path=[str(tmp_path/'image.png')], label=['a']))
    seen = pack(table, 224, resize, quiet=True).pixels[0] > 130
    assert (mask & seen).sum()/(mask | seen).sum() > .94

def test_turned_image_and_mask(tmp_path):
    "A camera's EXIF turn changes width and height; a mask of the upright picture fits it"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 100)).astype(np.uint8))
    exif = Image.Exif(); exif[0x0112] = 6
    image.save(tmp_path/'image.jpg', exif=exif)
    mask = np.zeros((100, 60), np.uint8); mask[20:50, 10:30] = 1
    Image.fromarray(mask).save(tmp_path/'mask.png')
    assert read_mask(tmp_path/'mask.png', tmp_path/'image.jpg', 50).shape == (50, 50)
    Image.fromarray(mask.T.copy()).save(tmp_path/'mask.png')
    assert read_mask(tmp_path / 'mask.png', tmp_path / 'image.jpg', 50).startswith(
        'does not match: 100x60 pixels for an image of 60x100'
    )

def test_masks_that_do_not_match(xrays):
    p = pack(images_of(xrays), 64, quiet=True)
    p.table = p.table.copy()
    p.table.loc[3, 'mask'] = '/nowhere/a.png'
    with pytest.warns(UserWarning, match='1 of 60 masks cannot be used'): lungs, kind, note = lungs_of(p)
    assert kind == MASKS and 'a.png: missing' in note and 'nowhere' not in note and 'these images get' in note
    assert len(np.unique(lungs[3].sum(1))) == 2                    # a box for this one
    assert len(np.unique(lungs[4].sum(1))) > 5                     # an outline for the others
    p.table.loc[:5, 'mask'] = [p.table.path[9]]*3 + ['/nowhere/a.png']*3
    with pytest.warns(UserWarning, match='of 60 masks cannot be used'): lungs, kind, note = lungs_of(p)
    assert kind == BOX and all(len(np.unique(m.sum(1))) == 2 for m in lungs) and 'every image gets' in note
    p.table.loc[5, 'mask'] = None                                  # known for some only
    assert lungs_of(p)[1:] == (BOX, '1 of 60 images have no mask.')
    assert lungs_of(p, [7, 9])[1] == MASKS                         # but for all of these

# ---- the rule

SCORE = st.floats(0, 1)
P = st.sampled_from([1e-4, 1e-3, .02, .3, 1.])
@st.composite
def results(draw):
    def share(): return draw(st.none() | st.builds(lambda v, w: [v, v - w, v + w], st.floats(-1, 1.2), SCORE))
    def row(name):
        a, u = draw(SCORE), draw(st.none() | SCORE)
        pair = lambda v: draw(st.none() | st.just([max(0., v - .03), min(1., v + .03)])) if v is not None else None
        return dict(
            control=name,
            n=9,
            accuracy=a,
            interval=pair(a),
            f1=a,
            f1_interval=None,
            auc=u,
            auc_interval=pair(u),
            true_probability=a,
            answer='b',
            answer_share=0.5,
            accuracy_p=draw(P),
            accuracy_expected=draw(SCORE),
            auc_p=None if u is None else draw(P),
            auc_expected=0.5,
            kept=dict(accuracy=share(), auc=share()),
        )

    alone = draw(
        st.none() | st.builds(lambda a, b: dict(accuracy=a, chance=b, n=9, interval=None, answer='b'), SCORE, SCORE)
    )
    shuffled = draw(
        st.none()
        | st.builds(
            lambda a, b, p: dict(
                shuffles=19, true_probability=a, expected=b, excess=a - b, own_excess=b, margin=0.01, p=p
            ),
            SCORE,
            SCORE,
            P,
        )
    )
    outline = draw(
        st.none() | st.builds(lambda d, p: dict(difference=d, interval=[d - 0.1, d + 0.1], p=p), st.floats(-1, 1), P)
    )
    return dict(
        rows=[row(n) for n in (INTACT, NO_LUNGS, OTHER_LUNGS, ONLY_LUNGS, BORDER, COARSE)],
        chance=dict(accuracy=draw(SCORE), answer='b'),
        mask=draw(st.sampled_from([MASKS, BOX])),
        permutations=9999, outline=outline, shuffled=shuffled, source_alone=alone, sources=None,
        mask_note='',
    )

@settings(max_examples=300, deadline=None)
@given(results(), st.lists(results(), max_size=2))
def test_every_result_has_its_sentence(c, beside):
    branch, c['sentence'] = verdict(c)
    assert branch in ('leak', 'untaught', 'reversed', 'elsewhere', 'partly', 'lungs', 'unclear')
    text = controls_lines(c)
    assert c['sentence'].endswith('.') and c['sentence'].count('. ') == 0 and 'nan' not in text and 'None' not in text
    together = findings(c, beside)
    # other runs make nobody surer
    assert all(together[k].p >= f.p for k, f in findings(c).items())
    assert sentence_of(c) == c['sentence'] and sentence_of(c, beside).endswith('.')

@settings(max_examples=200, deadline=None)
@given(results())
def test_a_control_that_changes_nothing_convicts(c):
    rows = {
        r['control']: r | dict(accuracy_p=1e-9, auc_p=r['auc_p'] and 1e-9, kept=dict(accuracy=[1, 1, 1], auc=[1, 1, 1]))
        for r in c['rows']
    }
    c['rows'] = [rows[INTACT] | dict(control=NO_LUNGS) if name == NO_LUNGS else rows[name] for name in rows]
    assert verdict(c | dict(shuffled=None))[0] in ('elsewhere', 'untaught', 'reversed')

@settings(max_examples=100, deadline=None)
@given(results())
def test_nothing_is_read_off_a_wrong_order(c):
    "An AUC below chance is no proof that the lungs are read, and no lack of information"
    rows = {r['control']: r for r in c['rows']}
    rows[ONLY_LUNGS] |= dict(auc=.3, auc_interval=[.26, .34], auc_p=1e-9)
    branch, sentence = verdict(c)
    assert branch not in ('lungs',)
    assert ', and something else besides' not in sentence.partition(': ')[2].partition(';')[0]
    if branch == 'unclear':
        assert 'wrong order (AUC 0.30' in sentence
        assert 'the lungs alone its score cannot be told from chance' not in sentence

def made(auc=.5, p=.5, accuracy=.43, kept=None, **of):
    "A network that knows the intact images, and controls that are all alike but for those in `of`"
    def row(name, accuracy, auc, p, kept):
        return dict(
            control=name,
            n=700,
            accuracy=accuracy,
            interval=[accuracy - 0.03, accuracy + 0.03],
            f1=accuracy,
            f1_interval=None,
            auc=auc,
            auc_interval=[auc - 0.03, auc + 0.03],
            accuracy_p=p,
            auc_p=p,
            accuracy_expected=0.3,
            auc_expected=0.5,
            kept=dict(accuracy=kept, auc=kept),
            true_probability=0.5,
            answer='b',
            answer_share=0.5,
        )
    rows = [row(INTACT, .93, .98, 1e-4, [1, 1, 1])] + [row(n, *(of.get(k) or (accuracy, auc, p, kept))) for k, n in
            dict(none=NO_LUNGS, other=OTHER_LUNGS, only=ONLY_LUNGS, border=BORDER, coarse=COARSE).items()]
    c = dict(
        rows=rows,
        chance=dict(accuracy=0.43, answer='b'),
        mask=MASKS, mask_note='', permutations=9999, outline=None, shuffled=None, sources=None,
        source_alone=None,
    )
    c['verdict'], c['sentence'] = verdict(c)
    return c

@pytest.mark.parametrize(
    'none, only, branch, said',
    [
        (
            (0.43, 0.62, 0.004, [0.25, 0.19, 0.31]),
            (0.43, 0.5, 0.5, None),
            'partly',
            'nothing shows that it reads the lungs',
        ),
        # one of ten looks: not enough
        (
            (0.43, 0.62, 0.006, [0.25, 0.19, 0.31]),
            (0.43, 0.5, 0.5, None),
            'unclear',
            'cannot be told from chance (AUC 0.62',
        ),
        # sure, and too little
        (
            (0.43, 0.57, 0.0001, [0.15, 0.09, 0.21]),
            (0.43, 0.5, 0.5, None),
            'unclear',
            'hardly anything is left of its score (AUC 0.57',
        ),
        (
            (0.43, 0.62, 0.0001, [0.25, 0.19, 0.31]),
            (0.43, 0.3, 0.0001, [-0.4, -0.5, -0.3]),
            'partly',
            'nothing shows that it reads the lungs',
        ),
        (
            (0.43, 0.5, 0.5, None),
            (0.43, 0.3, 0.0001, [-0.4, -0.5, -0.3]),
            'unclear',
            'the lungs alone it puts the classes in the wrong order (AUC 0.30',
        ),
        ((0.43, 0.5, 0.5, None), (0.60, 0.3, 0.0001, [0.3, 0.2, 0.4]), 'unclear', 'wrong order'),
        ((0.43, 0.3, 0.0001, [-0.4, -0.5, -0.3]), (0.43, 0.9, 0.0001, [0.8, 0.7, 0.9]), 'reversed', 'is misled by it'),
        ((0.43, 0.5, 0.5, None), (0.43, 0.9, 0.0001, [0.8, 0.7, 0.9]), 'lungs', 'keeps 80 % (70–90 %)'),
    ],
)
def test_sentences_of_known_results(none, only, branch, said):
    c = made(none=none, only=only)
    assert c['verdict'] == branch and said in c['sentence'], c['sentence']

def test_a_study_is_judged_together(filed, tmp_path):
    "A run's own files say what holds of it alone; the study's report what holds of all its runs"
    weak = made(none=(.43, .62, .004, [.25, .19, .31]))
    assert weak['verdict'] == 'partly' and verdict(weak, [made(), made()])[0] == 'unclear'
    for name, c in dict(a=weak, b=made(), c=made()).items():
        shutil.copytree(filed, tmp_path/name)
        (tmp_path/name/'controls.json').write_text(json.dumps(c))
    def html(folder): return report(folder).read_text().replace('&amp;', '&')
    alone, together = html(tmp_path/'a'), html(tmp_path)
    assert weak['sentence'] in alone and weak['sentence'] not in together
    assert verdict(weak, [made(), made()])[1] in together
    assert 'adjusted for all looks at these 3 runs (Holm)' in together

OLD = dict(
    sentence='With the lungs blacked out it keeps 38 % of its AUC above chance.',
    verdict='partly',
    mask=BOX,
    mask_note='No masks are known.',
    fill=0,
    chance=dict(accuracy=0.4, answer='Normal'),
    rows=[
        dict(
            control=n,
            n=9,
            accuracy=0.5,
            interval=[0.4, 0.6],
            f1=0.5,
            f1_interval=None,
            auc=0.7,
            auc_interval=[0.6, 0.8],
            true_probability=0.4,
            answer='Normal',
            answer_share=1.0,
        )
        for n in (INTACT, NO_LUNGS, ONLY_LUNGS, BORDER, COARSE)
    ]
    + [
        dict(
            control=words.SHUFFLED, n=9, accuracy=0.5, interval=None, f1=0.5, f1_interval=None, auc=0.7,
            auc_interval=None, true_probability=0.4, answer='Normal', answer_share=1.0,
        )
    ],
    shuffled=dict(true_probability=0.31, expected=0.3),
    sources=None,
    source_alone=None,
)

def test_results_of_an_older_version_are_still_told(folder):
    (folder/'controls.json').write_text(json.dumps(OLD))
    shutil.copytree(folder, folder.parent/'new')
    (folder.parent/'new'/'controls.json').write_text(json.dumps(made()))
    model_card(folder)
    for page in report(folder), report(folder.parent):
        assert OLD['sentence'] in page.read_text() and 'cannot be shown' not in page.read_text()
    assert OLD['sentence'] in (folder/'MODEL_CARD.md').read_text().replace('\\', '')
    assert verdict(OLD) == (OLD['verdict'], OLD['sentence'])
    assert 'one draw' in controls_lines(OLD)
    assert 'p, AUC' not in controls_table(OLD)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        table = load_study(folder.parent).table
    assert (table.loc['AUC, lungs blacked out'] == [0.5, 0.7]).all()
    assert table.loc[f'AUC, {OTHER_LUNGS}'].notna().sum() == 1

# ---- chance

@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(['', *'abcde'])), min_size=2, max_size=40), st.integers(0, 99)
)
def test_groups_are_dealt_as_wholes(images, seed):
    y, ids = np.array([k for k, _ in images]), group_ids([g for _, g in images], len(images))
    for labels in permuted_labels(y, ids, 5, np.random.default_rng(seed)):
        had = [y[ids == g].tolist() for g in range(ids.max() + 1)]
        for g in range(ids.max() + 1):
            got = labels[ids == g].tolist()
            assert any(np.resize(h, len(got)).tolist() == got for h in had)

@pytest.mark.parametrize('k', [2, 3])
@pytest.mark.parametrize('n', [2, 5, 40])
def test_looks_are_the_metrics(k, n):
    "Also with ties, few images and a class that is not there"
    rng = np.random.default_rng(n)
    y, probs = rng.integers(k, size=n), rng.multinomial(10, np.ones(k)/k, n)/10
    seen, truth = looks(y, dict(a=probs), n=99)['a'], metrics(y, probs, range(k))
    assert seen['accuracy'].value == pytest.approx(truth['accuracy'])
    assert (seen['auc'] is None) == (truth['auc'] is None)
    assert truth['auc'] is None or seen['auc'].value == pytest.approx(truth['auc'])
    assert all(.01 <= look.p <= 1 for look in seen.values() if look)

def test_holm_is_the_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ps = rng.uniform(size=rng.integers(1, 9))**3
        plain, most = {}, 0.
        for k, i in enumerate(np.argsort(ps)): plain[i] = most = min(1, max(most, ps[i]*(len(ps) - k)))
        assert np.allclose(holm(ps), [plain[i] for i in range(len(ps))])

def test_a_share_of_nothing_is_no_share():
    y = np.repeat([0, 1], 20)
    flat, sure = np.tile([.5, .5], (40, 1)), np.eye(2)[y]*.8 + .1
    left = paired(y, dict(flat=flat, sure=sure, wrong=sure[:, ::-1]), n=200)
    assert left.share('sure', 'flat', 'auc', .5) is None and left.share('flat', 'sure', 'auc', .5) == (0, 0, 0)
    assert left.share('wrong', 'sure', 'auc', .5).value == -1 and left.difference('sure', 'wrong')[0] == 1
    assert above_zero([0.]*19) == 1 and above_zero([1e-9]*19) == 2**-19

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('xyz'), st.sampled_from(['', *'abc'])), max_size=30), st.integers(0, 9))
def test_outlines_come_from_other_groups(images, seed):
    label, groups = [c for c, _ in images], [g for _, g in images]
    ids = group_ids(groups, len(images)) if images else []
    given = donors(label, ids, seed)
    if len(set(ids)) < 2: assert given is None
    else: assert len(given) == len(images) and all(ids[i] != ids[j] for i, j in enumerate(given))

def test_odd_names_in_figure_and_table(tmp_path):
    images, labels = np.zeros((2, 64, 64), np.uint8), ['$a$|b_^', 'x'*80]
    row = dict(
        n=2, accuracy=1.0, interval=None, f1=1.0, f1_interval=None, auc=None, auc_interval=None,
        answer='$a$|b_^', answer_share=1.0,
    )
    c = dict(
        sentence='S.',
        mask=BOX,
        chance=dict(accuracy=0.5, answer='$a$|b_^'),
        rows=[row | dict(control=INTACT)],
        shuffled=None,
        sources=None,
        source_alone=None,
    )
    controls_figure(c, {INTACT: images}, labels, '$x_{').savefig(tmp_path/'a.png')
    assert '\\|' in controls_lines(c)

# ---- sources

def test_source_alone_against_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = 200
        source = rng.choice(['a', 'b', 'c', None, ''], n, p=[.4, .3, .1, .1, .1]).tolist()
        label, parts = rng.choice(['x', 'y', 'z'], n, p=[.5, .3, .2]), rng.choice(['train', 'valid', 'test'], n)
        seen, counts = {}, {}
        for s, l, p in zip(source, label, parts):
            if s and p == 'train':
                seen.setdefault(s, {}).setdefault(l, 0)
                seen[s][l] += 1
                counts[l] = counts.get(l, 0) + 1
        best = max(sorted(counts), key=counts.get)
        hits = [
            max(sorted(seen[s]), key=lambda l: (seen[s][l], counts[l])) == l if s in seen else best == l
            for s, l, p in zip(source, label, parts)
            if s and p == 'test'
        ]
        got = source_alone(source, label, parts)
        assert (got['n'], got['answer']) == (len(hits), best) and got['accuracy'] == pytest.approx(np.mean(hits))

def test_a_source_for_every_image_says_nothing():
    label, parts = ['x', 'x', 'y']*20, ['train', 'test', 'valid']*10 + ['test', 'valid', 'train']*10
    got = source_alone([f'url {i}' for i in range(60)], label, parts)
    assert got['accuracy'] == got['chance']
    rows = by_source(
        [f'url {i}' for i in range(60)], np.arange(60) % 2, np.random.default_rng(0).normal(size=(60, 2)), ['x', 'y']
    )
    assert len(rows) == 12 and rows[-1]['source'] == '49 other sources' and sum(r['n'] for r in rows) == 60

def test_one_class_of_known_source():
    assert source_alone(['a', 'b', None, None], ['x', 'x', 'y', 'y'], ['train', 'test', 'train', 'test']) is None

# ---- a whole run

def test_what_is_filed(xrays, folder):
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    c = controls(folder, xrays, quiet=True)
    text = (folder/'controls.json').read_text()
    assert load_controls(folder) == json.loads(text) == c
    assert 'NaN' not in text
    assert str(xrays) not in text
    assert str(folder) not in text
    assert {f.name for f in folder.iterdir()} - set(before) == {'controls.json', 'controls.png'}
    told = {n for n, b in before.items() if (folder/n).read_bytes() != b}
    assert told == {'report.html', 'MODEL_CARD.md'}
    assert all(c['sentence'] in (folder / n).read_text().replace('\\', '') for n in told)
    assert [r['control'] for r in c['rows']] == [*CONTROLS, words.SHUFFLED] and len({r['n'] for r in c['rows']}) == 1
    metrics = json.loads((folder/'metrics.json').read_text())
    assert all(c['rows'][0][k] == pytest.approx(metrics[k]) for k in ('accuracy', 'f1', 'auc'))
    assert c['mask'] == MASKS
    assert c['sources'] is None and wrong_of_run(folder) == []
    # the same from a pack, and twice the same
    again = controls(folder, pack(images_of(xrays), 64, quiet=True), quiet=True)
    assert again == c
    assert controls(folder, xrays, shuffled=False, quiet=True)['rows'] == c['rows'][:-1]
    assert c['shuffled']['shuffles'] == len(set(c['shuffled']['draws'])) == 19

def test_noise_is_charged_with_nothing(xrays, tmp_path):
    "Meaningless labels: there is nothing to question, and nobody is told that no score can be trusted"
    table = images_of(xrays)
    table['label'] = np.random.default_rng(0).permutation(table.label)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        r = run(table, **SMALL, groups=False, out=tmp_path)
        c = controls(r, table, quiet=True)
    assert c['verdict'] == 'untaught' and 'cannot be told from chance' in c['sentence'], c['sentence']

def test_seeds_of_shuffles_are_their_own(xrays, folder, monkeypatch):
    seen = []
    keep = shuffles.shuffled_labels
    monkeypatch.setattr(
        shuffles, 'shuffled_labels', lambda table, parts, seed: seen.append(seed) or keep(table, parts, seed)
    )
    controls(folder, xrays, quiet=True)
    assert len(set(seen)) == 19 and json.loads((folder/'config.json').read_text())['seed'] not in seen

def test_other_data_is_an_error_and_changes_nothing(xrays, folder, tmp_path):
    (folder/'controls.json').write_text('{"old": 1}\n')
    fewer = images_of(xrays).iloc[1:]
    with pytest.raises(ValueError, match='is not what .* was trained on'): controls(folder, fewer, quiet=True)
    other = tmp_path/'other'
    shutil.copytree(xrays, other)
    with open(folder / 'split.csv') as f:
        name = next(line.split(',')[0].strip('"') for line in f if line.rstrip().endswith('"test"'))
    # one test image is another one
    Image.fromarray(255 - np.asarray(Image.open(other/name))).save(other/name)
    with pytest.raises(ValueError, match='1 of 12 test images get other predictions'):
        controls(folder, other, quiet=True)
    with pytest.raises(ValueError, match='for a pack of size 96'):
        controls(folder, pack(images_of(xrays), 96, quiet=True), quiet=True)
    with pytest.raises(FileNotFoundError, match='is no run folder'): controls(tmp_path, xrays, quiet=True)
    assert load_controls(folder) == {'old': 1} and not (folder/'controls.png').exists()

def test_a_copy_elsewhere_is_the_same_data(xrays, folder, tmp_path):
    shutil.copytree(xrays, tmp_path/'moved')
    assert controls(folder, tmp_path/'moved', shuffled=False, quiet=True)['rows'][0]['n'] == 12

def test_interrupted_writing_leaves_the_old_file(xrays, folder, monkeypatch):
    (folder/'controls.json').write_text('{"old": 1}\n')
    def fail(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(module, 'write_json', fail)
    with pytest.raises(OSError, match='No space'): controls(folder, xrays, shuffled=False, quiet=True)
    assert load_controls(folder) == {'old': 1} and not [f for f in folder.iterdir() if f.name.startswith('.')]

def test_groups_reach_the_intervals(xrays, tmp_path, monkeypatch):
    table = images_of(xrays)
    table['group'] = [f'g{i // 2}' if i % 5 else '' for i in range(len(table))]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        r = run(table, **SMALL, out=tmp_path)
        seen = []
        monkeypatch.setattr(module, 'intervals', lambda y, p, c, groups, **kw: seen.append(list(groups)) or {})
        c = controls(r, table, shuffled=False, quiet=True)
    filed = r.predictions[r.predictions.part == 'test']
    known = dict(zip(table.path.map(lambda p: p.rsplit('/', 1)[-1]), table.group))
    assert seen[0] == filed.group.tolist() == [known[p.rsplit('/', 1)[-1]] for p in filed.path] and any(seen[0])
    assert c['rows'][0]['interval'] is None

def test_sheet_that_does_not_match_and_one_image_a_class(xrays, tmp_path):
    "Kaggle's sheets give the source; rows that name no image, and images without a row, are said and counted"
    root = shutil.copytree(xrays, tmp_path/'data')
    shutil.rmtree(root/'Viral Pneumonia'/'masks')
    for c in demo.CLASSES:
        names = [f'{c}-{i}' for i in (range(1, 90) if c != 'COVID' else range(900, 905))]
        pd.DataFrame({'FILE NAME': names, 'FORMAT': 'PNG', 'SIZE': '64*64', 'URL': f'https://{c[0]}.org'}).to_excel(
            root / f'{c}.metadata.xlsx', index=False
        )
    with pytest.warns(UserWarning, match='metadata.xlsx'): table = images_of(root)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        r = run(table, **SMALL, out=tmp_path, test=.07)
        c = controls(r, table, shuffled=False, quiet=True)
    text = (r.path/'controls.json').read_text()
    assert 'NaN' not in text and c['mask'] == BOX and 'have no mask' in c['mask_note']
    known = {s['source']: s['n'] for s in c['sources']}
    n_covid = (r.predictions[r.predictions.part == 'test'].label == 'COVID').sum()
    assert known['not known'] == n_covid > 0 and sum(known.values()) == c['rows'][0]['n']
    assert c['source_alone']['accuracy'] == 1
    assert c['source_alone']['n'] == c['rows'][0]['n'] - n_covid
    assert verdict(c)[1] == c['sentence']
