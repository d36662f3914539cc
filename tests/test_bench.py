"The bench from its first job to its files, on phantoms: each measurement in this process, but for the last test."
import io, json, sys
from pathlib import Path

import pytest
from PIL import Image

from xray_xfer.bench import apart, schedules as soon, timing as room
from xray_xfer.data import demo
from xray_xfer.bench.timing import bench
from xray_xfer.data.table import images_of

@pytest.fixture(scope='module')
def xrays(tmp_path_factory):
    root = tmp_path_factory.mktemp('bench')/'xrays'
    demo.draw(root, n=80, size=64)
    return root

@pytest.fixture
def jobs(monkeypatch):
    "The specifications of all measurements, in order; importing PyTorch a dozen times is not what is tested"
    done = []
    def here(spec, folder):
        spec = spec | dict(result=str(folder/'result.json'))
        monkeypatch.setattr(sys, 'stdin', io.StringIO(json.dumps(spec)))
        if spec.get('cache'): monkeypatch.setenv('XRAY_XFER_CACHE', spec['cache'])
        apart.work()
        done.append(spec)
        return json.loads((folder/'result.json').read_text())
    for each in room, soon: monkeypatch.setattr(each, 'one_measurement', here)
    return done

@pytest.mark.slow
@pytest.mark.usefixtures('plain_figures')
def test_every_way_to_its_end(xrays, jobs, tmp_path, capsys):
    out = tmp_path/'out'
    res = bench(
        xrays,
        'resnet10t',
        depths=(0, 1),
        pretrained=False,
        epochs=2,
        timed={'resnet10t 1': 0.5},
        size=64,
        bs=8,
        seeds=(0, 1),
        tries=dict(bs=(4, 8), workers=(0,), images=16),
        out=out,
    )
    first = [s for s in jobs if s['seed'] == 0]
    assert [(s['way'], s['depth']) for s in first] == [
        ('stock', 0),
        ('try', 0),
        ('tuned', 0),
        ('cold', 0),
        ('warm', 0),
        ('stock', 1),
        ('try', 1),
        ('tuned', 1),
        ('cold', 1),
        ('warm', 1),
        ('cold', None),
        ('warm', None),
    ]
    # the second seed is for the accuracy of what was trained in full:
    # not of depth 1, whose baselines were not, nor of a study
    assert [(s['way'], s['depth']) for s in jobs if s['seed'] == 1] == [('stock', 0), ('tuned', 0), ('cold', 0)]
    # one split and one file of weights for all
    assert len({s['split'] for s in jobs}) == len({s['pretrained'] for s in jobs}) == 1
    assert {s['bs'] for s in jobs if s['way'] in ('stock', 'cold', 'warm')} == {8}
    rows = {(r['way'], r['depth']): r for r in res['rows']}
    assert len(rows) == len(res['rows']) == 10
    for (way, depth), r in rows.items():
        assert r['whole'] == pytest.approx(r['setup'] + r['train'] + r['evaluate'])
        assert r['train'] > 0
        assert 0.1 < r['peak_gb'] < 60
        scaled = way in ('stock', 'tuned') and depth == 1
        assert r['epochs_timed'] == (0.5 if scaled else 2)
        assert (r['accuracy'] is None) == scaled
        assert len(r['seeds']) == (0 if scaled else 2 if depth == 0 and way != 'warm' else 1)
    assert list(res['chosen']) == ['resnet10t 0', 'resnet10t 1']
    for depth in 0, 1:
        assert (
            rows['tuned', depth]['bs']
            == max(res['chosen'][f'resnet10t {depth}']['tries'], key=lambda t: t['images_per_second'])['bs']
        )
    # two studies, cold and warm, are one
    for depth in 0, 1, 'study': assert rows['warm', depth]['accuracies'] == rows['cold', depth]['accuracies']
    assert rows['cold', 'study']['accuracies']['resnet10t_0'] == rows['cold', 0]['seeds'][0]
    ratio = {r['case']: r for r in res['ratios']}
    assert list(ratio) == ['resnet10t depth 0', 'resnet10t depth 1', 'resnet10t study', 'whole study']
    assert ratio['whole study']['stock/cold'] == pytest.approx(
        (rows['stock', 0]['whole'] + rows['stock', 1]['whole']) / rows['cold', 'study']['whole']
    )
    filed = json.loads((out/'bench.json').read_text())
    assert [r['whole'] for r in filed['rows']] == [r['whole'] for r in res['rows']]
    assert filed['seeds'] == [0, 1]
    assert filed['images'] == 80
    text = (out/'bench.md').read_text()
    assert '(0.5 of 2 epochs timed, scaled)' in text and '80 images (16 in the test part), 2 epochs' in text
    with Image.open(out/'bench.png') as im: im.load()
    said = capsys.readouterr().err
    assert said.count('images/s in training') == 10 and 'resnet10t depth 1, stock' in said

@pytest.mark.usefixtures('plain_figures')
def test_what_was_measured_stays_when_the_next_fails(xrays, jobs, tmp_path, monkeypatch):
    here = room.one_measurement
    def fail(spec, folder):
        if spec['way'] == 'warm': raise RuntimeError('warm resnet10t depth 0 failed: the lights went out')
        return here(spec, folder)
    monkeypatch.setattr(room, 'one_measurement', fail)
    with pytest.raises(RuntimeError, match='lights'):
        bench(
            xrays,
            'resnet10t',
            depths=(0,),
            pretrained=False,
            ways=('warm', 'cold'),
            epochs=1,
            size=64,
            bs=16,
            out=tmp_path / 'out',
            quiet=True,
        )
    assert [r['way'] for r in json.loads((tmp_path/'out'/'bench.json').read_text())['rows']] == ['cold']

def test_too_little_to_be_timed_is_an_error_before_anything_is_trained(xrays, jobs, tmp_path):
    for words, kw in (
        ('0.1 of an epoch is 0 batches of 16 here: give more', dict(bs=16, timed=dict(resnet10t=0.1))),
        ('training images are fewer than one batch of 64', dict(bs=64)),
    ):
        with pytest.raises(ValueError, match=words):
            bench(
                xrays,
                'resnet10t',
                depths=(0,),
                pretrained=False, ways='stock', epochs=1, size=64, out=tmp_path / 'out', quiet=True, **kw,
            )

@pytest.mark.usefixtures('plain_figures')
def test_a_source_that_is_no_folder_is_resolved_once_for_all(xrays, jobs, tmp_path):
    res = bench(
        images_of(xrays),
        'resnet10t',
        depths=(0,),
        pretrained=False,
        ways=('cold',),
        epochs=1,
        size=64,
        bs=16,
        out=tmp_path / 'out',
        quiet=True,
    )
    assert {Path(s['data']).suffix for s in jobs} == {'.csv'}
    assert res['rows'][0]['accuracy'] == res['rows'][1]['accuracy']

@pytest.mark.slow
def test_a_job_that_fails_says_why(tmp_path):
    "In a process of its own, as all are"
    with pytest.raises(RuntimeError, match='stock resnet10t depth 0 failed: .*nowhere'):
        spec = dict(way='stock', arch='resnet10t', depth=0, data=str(tmp_path/'nowhere'), timed=1)
        apart.one_measurement(spec, tmp_path)

@pytest.mark.slow
@pytest.mark.usefixtures('plain_figures')
def test_schedules_go_on_where_they_were_stopped(xrays, jobs, tmp_path, monkeypatch):
    here = soon.one_measurement
    def fail(spec, folder):
        if len(jobs) == 5: raise RuntimeError('the lights went out')
        return here(spec, folder)
    def asked(**more):
        given = dict(pretrained=False, depth=0, ways=('stock', 'cold', 'warm'), epochs=(2, 1), folds=2, size=64, bs=16)
        return soon.schedules(xrays, 'resnet10t', out=tmp_path/'out', quiet=True, **given | more)
    monkeypatch.setattr(soon, 'one_measurement', fail)
    with pytest.raises(RuntimeError, match='lights'): asked()
    assert len(json.loads((tmp_path/'out'/'schedules.json').read_text())['rows']) == 5
    monkeypatch.setattr(soon, 'one_measurement', here)
    res = asked()
    rows = res['rows']
    assert [(r['fold'], r['epochs'], r['way']) for r in rows] == [
        (f, e, w) for f in '12' for e in (2, 1) for w in ('stock', 'cold', 'warm')
    ]
    # the cold training whose warm one follows is made again where the cache went with the process
    assert len(jobs) == len(rows) + 1
    of = {(r['fold'], r['epochs'], r['way']): r['accuracy'] for r in rows}
    assert all(of[f, e, 'cold'] == of[f, e, 'warm'] for f in '12' for e in (1, 2))
    # each fold has parts of its own, and each way the same ones
    assert len({s['split'] for s in jobs if s['way'] == 'stock'}) == 2
    assert {a['way'] for a in res['answers']} == {'stock', 'cold', 'warm'}
    stock = next(s for s in res['schedules'] if (s['way'], s['epochs']) == ('stock', 2))
    assert stock['accuracy'] == pytest.approx(sum(of[f, 2, 'stock'] for f in '12') / 2) and stock['folds'] == 2
    assert 'as good as stock' in (tmp_path/'out'/'schedules.md').read_text()
    with Image.open(tmp_path/'out'/'schedules.png') as im: im.load()
    n = len(jobs)
    assert asked()['rows'] == rows and len(jobs) == n
    with pytest.raises(FileExistsError, match='other settings'): asked(lr=1e-3)
