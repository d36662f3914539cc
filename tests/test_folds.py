"A study over folds, from end to end: what is tested, what is filed, what answers, and what is refused."
import json
from pathlib import Path

import numpy as np, pandas as pd, pytest
from reference import OF_A_SET, OF_A_STUDY, wrong, wrong_of_run

from xray_xfer.cli import main
from xray_xfer.data.decode import decode
from xray_xfer.data.table import images_of
from xray_xfer.evaluate.scores import metrics
from xray_xfer.inference.ensemble import OverFolds
from xray_xfer.inference.maps import Explainer
from xray_xfer.report.results import load_study
from xray_xfer.runs.crossed import fold_runs
from xray_xfer.runs.folder import load_run
from xray_xfer.study import study

pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.usefixtures('plain_figures')]
ASKED = dict(size=64, epochs=1, bs=8, quiet=True, device='cpu')
NOT_THE_SAME = {'timings.json', 'environment.json', 'report.html', 'MODEL_CARD.md', 'runs.csv'}   # when and how long


@pytest.fixture(scope='module')
def weights(tmp_path_factory, xrays):
    "Weights that all folds share, as pretrained ones are"
    from safetensors.torch import save_file
    from xray_xfer.models.classifier import build
    import torch
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp('weights')/'w.safetensors'
    model = build('resnet10t', 0, 4, pretrained=False, size=64)
    save_file({k: v.clone().contiguous() for k, v in model.backbone.state_dict().items()}, file)
    return file

@pytest.fixture(scope='module')
def folded(tmp_path_factory, xrays, weights):
    out = tmp_path_factory.mktemp('folded')/'study'
    return study(xrays, 'resnet10t', (0, 1), folds=2, pretrained=weights, out=out, **ASKED)

def files(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(Path(folder).rglob('*'))
            if f.is_file() and f.name not in NOT_THE_SAME and '.jobs' not in f.parts and f.suffix != '.png'}


def test_every_image_is_tested_once_by_a_network_that_never_saw_it(folded, xrays):
    for r in folded.runs:
        test = r.predictions.of('test')
        assert len(test) == len(images_of(xrays)) and test.path.is_unique
        for fold, of_fold in zip(r.metrics['folds'], fold_runs(r), strict=True):
            mine = test[test.fold == fold['name']]
            assert set(mine.path) == set(of_fold.split.path[of_fold.split.split == 'test'])
            # the logits are those that the network of the fold gave
            theirs = of_fold.predictions.of('test').set_index('path').loc[mine.path]
            columns = [c for c in theirs if c.startswith('logit_')]
            assert (mine[columns].to_numpy(np.float32) == theirs[columns].to_numpy(np.float32)).all()

def test_the_page_of_every_file_names_theirs(folded):
    home = folded.runs[0].path
    assert wrong(folded.path, OF_A_STUDY) + wrong_of_run(home/'fold1') == []
    folds, settings = ([f'fold{i} is not on the page' for i in (1, 2)],
                       [f'config.json: {k} is on the page alone' for k in ('test', 'split')])
    assert set(wrong_of_run(home)) == {*folds, *settings}

def test_counts_are_over_all_images_and_auc_is_the_mean_of_the_folds(folded):
    r = load_run(folded.runs[0].path)
    test = r.predictions.of('test')
    again = metrics(test.y, test.probs, test.classes, test.folds)
    assert {k: r.metrics[k] for k in again} == again
    assert r.metrics['accuracy'] == (test.probs.argmax(1) == test.y).mean()
    by_fold = [metrics(p.y, p.probs, p.classes)['auc'] for p in (f.predictions.of('test') for f in fold_runs(r))]
    assert r.metrics['auc'] == pytest.approx(np.mean(by_fold))

def test_the_trunk_runs_once_for_all_folds_and_depths(tmp_path, xrays, weights, monkeypatch):
    from xray_xfer.trunk import once
    made, make = [], once._make
    def counted(wanted, images, *more):
        made.append(len(images.rows))
        make(wanted, images, *more)
    monkeypatch.setattr(once, '_make', counted)
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    study(xrays, 'resnet10t', 0, folds=2, seeds=(0, 1), repeats=2, pretrained=weights, out=tmp_path/'s', **ASKED)
    assert made == [60]
    s = load_study(tmp_path/'s')
    assert [r.reader for r in s.runs[:4]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list(s.table.columns) == ['resnet10t_0']
    assert s.table.attrs['seeds']['resnet10t_0'] == [r.reader for r in s.runs]
    assert '60 tested once each, by 2-fold cross-validation, 2 times over' in s.caption

def test_started_again_nothing_is_trained(folded, xrays, weights, monkeypatch):
    from xray_xfer import train
    monkeypatch.setattr(train, '_fit', None)
    before = files(folded.path)
    study(xrays, 'resnet10t', (0, 1), folds=2, pretrained=weights, out=folded.path, **ASKED)
    assert files(folded.path) == before

@pytest.mark.slow
def test_two_workers_give_the_same_bytes(folded, xrays, weights, tmp_path):
    study(xrays, 'resnet10t', (0, 1), folds=2, pretrained=weights, out=tmp_path/'study', engine_args=dict(workers=2),
          **ASKED)
    assert files(tmp_path/'study') == files(folded.path)

def test_one_fold_can_be_trained_again_from_its_file(folded, xrays, weights, tmp_path):
    from xray_xfer.train import run
    file = folded.path/'folds'/'fold2.csv'
    r = run(xrays, 'resnet10t', 0, split=file, pretrained=weights, out=tmp_path, deepest=[0, 1], **ASKED)
    assert r.metrics == json.loads((folded.runs[0].path/'fold2'/'metrics.json').read_text())

def test_predict_and_external_ask_all_folds_together(folded, xrays, tmp_path, capsys):
    assert main(['predict', str(folded.path), str(xrays), '--out', str(tmp_path/'p.csv'), '--quiet']) == 0
    rows = pd.read_csv(tmp_path/'p.csv')
    assert len(rows) == 60 and rows.filter(like='prob_').sum(axis=1).round(4).eq(1).all()
    assert main(['external', str(folded.path), str(xrays), '--with-twins', '--quiet']) == 0
    assert wrong(folded.path/'external'/'xrays', OF_A_SET) == []
    found = json.loads((folded.path/'external'/'xrays'/'external.json').read_text())
    assert found['runs'][0]['home']['n'] == 60
    assert found['runs'][0]['home']['auc'] == pytest.approx(folded.runs[0].metrics['auc'], abs=.05)   # temperatures
    assert main(['thresholds', str(folded.runs[0].path), '--sensitivity', '0.8']) == 0
    assert main(['controls', str(folded.runs[0].path), str(xrays)]) == 1
    assert f'{folded.runs[0].path.name}/fold1' in capsys.readouterr().err

def test_the_methods_of_folds_are_those_of_folds(folded, capsys):
    r = load_run(folded.runs[0].path)
    assert main(['methods', str(r.path), '--no-checklists']) == 0
    text = capsys.readouterr().out
    low, high = (f'{end(r.calibration["temperatures"].values()):.3f}' for end in (min, max))
    tested = {f['n'] for f in r.metrics['folds']}
    for said in ('2-fold cross-validation: 2 networks', f'each tested on {min(tested)}', f'({low} to {high})',
                 'were tested once each', 'mean of the folds', 'Nadeau & Bengio 2003', 'these trained networks',
                 '| all | 60 | 60 |', 'parameters'): assert said in text, said
    for said in ('test part and of', 'no cross-validation', 'Bouckaert', 'came with the images'):
        assert said not in text, said
    assert main(['methods', str(folded.path)]) == 0
    text = capsys.readouterr().out
    assert 'Of the 2 models of the study (resnet10t\\_0 and resnet10t\\_1' in text and 'Models were compared on' in text
    assert 'the networks of the folds answer together' in text and 'No other model' not in text

def test_a_source_is_left_out_at_a_time(tmp_path, xrays, weights):
    table = images_of(xrays)
    table['source'] = ['A' if i % 3 else 'B' for i in range(len(table))]
    pneumonia = table.label.eq('Viral Pneumonia')
    table.loc[pneumonia, 'source'] = 'C'
    table.to_csv(tmp_path/'films.csv', index=False)
    s = study(tmp_path/'films.csv', 'resnet10t', 0, folds='source', pretrained=weights, out=tmp_path/'s', **ASKED)
    [r] = s.runs
    assert [f['name'] for f in r.metrics['folds']] == ['A', 'B'] and r.metrics['n'] == (~pneumonia).sum()
    assert r.config['folds_left'] == {'C': 'Viral Pneumonia has no other image or group outside it'}
    assert 'retrained' not in r.metrics and r.metrics['missing'] == ['Viral Pneumonia']
    html = (tmp_path/'s'/'report.html').read_text()
    assert 'never tested: C' in html and 'the model has learnt the source' in html

@pytest.mark.parametrize('words, said', [
    (['--folds', '1'], 'give 2 or more'),
    (['--folds', '40'], 'each fold needs one of its own'),
    (['--folds', 'hospital'], 'no such column'),
    (['--repeats', '3'], '--folds 5'),
    (['--folds', '3', '--test', '0.3'], 'folds test all images'),
    (['--folds', '3', '--controls'], 'controls ask one network'),
])
def test_bad_input(words, said, xrays, tmp_path, capsys):
    out = ['--archs', 'resnet10t', '--pretrained', 'false', '--size', '64', '--out', str(tmp_path/'s'), '--quiet']
    assert main(['study', str(xrays), *out, *words]) != 0
    assert said in capsys.readouterr().err
    assert not list((tmp_path/'s').glob('*/*/metrics.json'))

def test_maps_of_a_model_over_folds_are_the_means_of_its_networks(folded, xrays, tmp_path):
    "For the class that all call together, at the probabilities that predict gives"
    r, paths = folded.runs[1], images_of(xrays).path[::6].tolist()
    e = Explainer(r.path)
    pixels = np.stack([decode(p, *e.frame) for p in paths])
    found, said = e(pixels), np.exp(OverFolds(r)(pixels).logits)
    assert found.probs == pytest.approx(said, abs=1e-4) and e.temperature == 1
    assert (found.targets == said.argmax(1)).all()
    each = [Explainer(f'{r.path}/fold{k}')(pixels, found.targets).maps for k in (1, 2)]
    assert found.maps == pytest.approx(np.mean(each, axis=0), abs=1e-5) and abs(each[0] - each[1]).max() > .01
    assert main(['explain', str(r.path), *paths, '--out', str(tmp_path/'out'), '--sheet', '--quiet']) == 0
    assert pd.read_csv(tmp_path/'out'/'explained.csv').called.tolist() == [e.classes[i] for i in found.called]
