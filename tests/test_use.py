"""Finished runs at work: what the pages of `inference` cannot say. Streams that are stopped and killed, names that
nobody should give, runs that do not belong together, sets that hold nothing, and the commands from end to end."""
import json, os, shutil, warnings
from pathlib import Path

import numpy as np, pandas as pd, pytest
from reference import OF_A_SET, OF_A_STUDY, of_predict, wrong, wrong_of_run

from xray_xfer.cli import main
from xray_xfer.core.files import read_csv
from xray_xfer.data.table import images_of
from xray_xfer.inference import stream
from xray_xfer.inference.choose import file_points
from xray_xfer.inference.elsewhere import external
from xray_xfer.inference.ensemble import load_ensemble
from xray_xfer.inference.growing import Growing
from xray_xfer.inference.stream import predict, predict_to
from xray_xfer.runs.folder import load_run
from xray_xfer.study import study

SMALL = dict(pretrained=False, size=64, epochs=2, bs=16, lr=3e-3, quiet=True)

@pytest.fixture(scope='module')
def drawings(): return images_of('demo').groupby('label').head(40).reset_index(drop=True)

@pytest.fixture(scope='module')
def made(drawings, tmp_path_factory):
    "A study of two seeds of one model, and films to predict"
    home = tmp_path_factory.mktemp('use')
    s = study(drawings, 'resnet10t', 1, (0, 1), out=home/'study', **SMALL)
    films = home/'films'
    films.mkdir()
    for i, path in enumerate(drawings.path[::8]): shutil.copy(path, films/f'{i:02d}.png')
    (films/'broken.png').write_bytes(Path(drawings.path[0]).read_bytes()[:300])
    return [r.path for r in s.runs], films

@pytest.fixture
def small_chunks(monkeypatch): monkeypatch.setattr(stream, 'CHUNK', 4)

# ---- a stream that ends early

def test_stopped_and_started_again_it_is_the_same_file(made, tmp_path, small_chunks, monkeypatch):
    runs, films = made
    whole = predict_to(runs, films, tmp_path/'whole.csv', quiet=True)
    add, n = Growing.add, []
    def stop(self, *chunk):
        if len(n) == 2: raise KeyboardInterrupt
        n.append(add(self, *chunk))
    with monkeypatch.context() as m:
        m.setattr(Growing, 'add', stop)
        with pytest.raises(KeyboardInterrupt): predict_to(runs, films, tmp_path/'said.csv', quiet=True)
    half = (tmp_path/'said.csv').read_bytes()
    assert half.endswith(b'\n') and 0 < half.count(b'\n') - 1 < whole.images
    with open(tmp_path/'said.csv', 'ab') as f: f.write(b'half a row, "cut')   # what a kill may leave
    again = predict_to(runs, films, tmp_path/'said.csv', quiet=True)
    assert again.went_on and again[1:3] == whole[1:3] and again.counts == whole.counts
    assert (tmp_path/'said.csv').read_bytes() == (tmp_path/'whole.csv').read_bytes()
    assert json.loads((tmp_path/'said.csv.json').read_text())['finished']

def test_new_images_are_added_to_a_finished_file(made, tmp_path):
    runs, films = made
    mine = tmp_path/'films'
    shutil.copytree(films, mine)
    first = predict_to(runs[0], mine, mine/'said.csv', quiet=True)   # beside the images: it is none of them
    shutil.copy(mine/'00.png', mine/'zz.png')
    second = predict_to(runs[0], mine, mine/'said.csv', quiet=True)
    assert (second.images, second.rejects) == (first.images + 1, first.rejects)
    assert read_csv(mine/'said.csv').path.tolist()[-1] == 'zz.png'

def test_another_ones_file_is_left_alone(made, tmp_path):
    runs, films = made
    (tmp_path/'mine.csv').write_text('path\n')
    with pytest.raises(FileExistsError, match='says by whom'): predict_to(runs, films, tmp_path/'mine.csv', quiet=True)
    predict_to(runs, films, tmp_path/'b.csv', quiet=True)
    for other in (dict(runs=runs[0]), dict(runs=runs, threshold=['COVID']), dict(runs=runs, seen=False)):
        with pytest.raises(FileExistsError, match='was begun with other'):
            predict_to(other.pop('runs'), films, tmp_path/'b.csv', quiet=True, **other)
    os.truncate(tmp_path/'b.csv', 20)
    with pytest.raises(ValueError, match='is shorter than'): predict_to(runs, films, tmp_path/'b.csv', quiet=True)
    assert (tmp_path/'mine.csv').read_text() == 'path\n'

@pytest.mark.skipif(os.name != 'posix', reason='names that are no text')
def test_any_names(made, tmp_path):
    runs, films = made
    names = [b'=1+1.png', b'a,"b".png', b'two\nlines.png', '日本.png'.encode(), b'caf\xe9.png', b'@x.png', b'path']
    for name in names: shutil.copy(films/'00.png', os.path.join(os.fsencode(tmp_path), name))
    out = tmp_path.parent/f'{tmp_path.name}.csv'
    for _ in range(2): filed = predict_to(runs[0], tmp_path, out, quiet=True)   # again: each is known to be there
    assert filed.images == len(names)
    said = read_csv(out).path
    assert {os.fsencode(p) for p in said} == {b"'" + n if n[:1] in b'=@' else n for n in names}

# ---- runs

def test_runs_that_do_not_belong_together(made, drawings, tmp_path):
    runs, films = made
    two = drawings[drawings.label.isin(['COVID', 'Normal'])].reset_index(drop=True)
    other = study(two, 'resnet10t', 0, out=tmp_path/'two', **SMALL).runs[0].path
    with pytest.raises(ValueError, match='must know the same'): predict([runs[0], other], films, quiet=True)
    for bad, why in ((films, 'is no run folder'), (tmp_path/'none', 'does not exist')):
        with pytest.raises(FileNotFoundError, match=why): predict(bad, films, quiet=True)
    old = tmp_path/'old'
    shutil.copytree(runs[0], old)
    config = json.loads((old/'config.json').read_text())
    (old/'config.json').write_text(json.dumps(config | dict(schema=99)))
    with pytest.raises(ValueError, match='has schema 99; this version reads'): predict(old, films, quiet=True)

def test_the_order_of_classes_is_the_first_runs(made, tmp_path):
    "A run whose classes stand in another order says the same"
    runs, films = made
    turned = tmp_path/'turned'
    shutil.copytree(runs[1], turned)
    config = json.loads((turned/'config.json').read_text())
    order = [2, 0, 3, 1]
    config['classes'] = [config['classes'][i] for i in order]
    (turned/'config.json').write_text(json.dumps(config))
    from safetensors.numpy import load_file, save_file
    weights = load_file(turned/'model.safetensors')
    last = max((k.rsplit('.', 1)[0] for k in weights if k.startswith('head.')), key=lambda k: int(k.split('.')[1]))
    for k in (f'{last}.weight', f'{last}.bias'): weights[k] = np.ascontiguousarray(weights[k][order])
    save_file(weights, turned/'model.safetensors')
    a, b = predict(runs, films, quiet=True), predict([runs[0], turned], films, quiet=True)
    np.testing.assert_allclose(a.filter(regex='^prob_').to_numpy(), b.filter(regex='^prob_').to_numpy(), atol=1e-6)

def test_an_older_run_says_that_it_does_not_know(made, tmp_path):
    runs, films = made
    old = tmp_path/'old'
    shutil.copytree(runs[0], old)
    for name in ('unlike.safetensors', 'known.safetensors', 'thresholds.json'): (old/name).unlink()
    said = predict(old, films, quiet=True)
    assert set(said.unlike) == set(said.seen) == {'unknown'} and said.further.isna().all()
    with pytest.raises(ValueError, match='xray_xfer thresholds'): predict(old, films, threshold=['COVID'], quiet=True)
    (old/'known.safetensors').write_bytes(b'x' * 50)
    with pytest.raises(ValueError, match='damaged'): predict(old, films, quiet=True)

def test_predictions_are_those_that_were_filed(made, drawings):
    "The same test images, by one run and by both: the logits of predictions.csv at the temperatures"
    runs, _ = made
    test = load_run(runs[0]).predictions.of('test')
    where = dict(zip(load_run(runs[0]).split.path, drawings.path))
    said = predict(runs, [where[p] for p in test.path], quiet=True)
    ensemble = load_ensemble(runs, 'cpu')
    from xray_xfer.evaluate.calibration import scaled
    each = [scaled(load_run(r).predictions.of('test').logits, m.temperature) for r, m in zip(runs, ensemble.members)]
    want = ensemble.probs(np.stack(each))
    np.testing.assert_allclose(said.filter(regex='^prob_').to_numpy(), want, atol=5e-3)
    assert (said.seen == 'same (test)').all()
    np.testing.assert_allclose(said.disagreement, np.ptp([e[range(len(want)), want.argmax(1)] for e in each], axis=0),
                               atol=1e-2)

def test_nothing_to_predict(made, tmp_path):
    runs, films = made
    with pytest.raises(ValueError, match='holds no files'): predict(runs, tmp_path, quiet=True)
    (tmp_path/'a.png').write_bytes(b'')
    with pytest.raises(ValueError, match='none of the 1 file could be decoded'): predict(runs, tmp_path, quiet=True)
    filed = predict_to(runs, tmp_path, tmp_path/'said.csv', quiet=True)
    assert (filed.images, filed.rejects, filed.lines[0]) == (0, 1, 'no image')

# ---- another hospital

def rows(drawings, n=40, seed=1):
    return images_of('demo', seed=seed).groupby('label').head(n // 4).reset_index(drop=True)[['path', 'label']]

def test_sets_that_show_nothing(made, drawings, tmp_path):
    runs, _ = made
    away = rows(drawings)
    def no(table, why, **more):
        with pytest.raises(ValueError, match=why): external(runs, table, out=tmp_path/'x', quiet=True, **more)
    no(away[away.label == 'COVID'], 'has COVID alone')
    no(away[:1], 'has .* alone')
    no(away.assign(label='flu'), 'is a class of the runs')
    no(away.assign(label=''), 'is a class of the runs')
    no(away.drop(columns='label'), 'no column label')
    train = drawings[np.array(load_run(runs[0]).split.split == 'train')]
    no(train[['path', 'label']], 'images that the runs were trained on')
    no(away, "no label of the table is TB", mapping=dict(TB='COVID'))
    assert not (tmp_path/'x').exists()

def test_what_is_not_ours_stays(made, drawings, tmp_path):
    runs, _ = made
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('years')
    with pytest.raises(FileExistsError, match='give another out='):
        external(runs, rows(drawings), twins=True, out=tmp_path/'mine', quiet=True)
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'years'
    for _ in range(2): found = external(runs, rows(drawings), twins=True, out=tmp_path/'ours', quiet=True)
    assert [r['name'] for r in found.found['runs']] == ['resnet10t_1 seed 0', 'resnet10t_1 seed 1']

def test_a_column_with_one_value_and_one_with_many(made, drawings):
    runs, _ = made
    away = rows(drawings).assign(site='one', note=[f'n{i}' for i in range(40)], age=[f'0{a}Y' for a in range(40, 80)])
    found = external(runs, away, twins=True, out=None, quiet=True).found
    assert list(found['runs'][0]['subgroups']) == ['age'] == list(found['alone'])
    assert {r['subgroup'] for r in found['runs'][0]['subgroups']['age']} == {'40 to 59', '60 to 79'}

def test_rejects_are_counted_and_the_rest_is_scored(made, drawings, tmp_path):
    runs, _ = made
    away = rows(drawings)
    away.loc[0, 'path'] = str(tmp_path/'gone.png')
    found = external(runs, away, twins=True, out=tmp_path/'out', quiet=True)
    assert found.found['rejects'] == 1 and found.found['images'] == len(away) - 1
    assert read_csv(tmp_path/'out'/'rejects.csv').reason.tolist() == ['missing: no such file']

@pytest.mark.slow
def test_the_study_says_what_is_known_elsewhere(drawings, tmp_path):
    s = study(drawings, 'resnet10t', (0, 1), out=tmp_path/'s', **SMALL)
    before = (tmp_path/'s'/'report.html').read_text()
    assert 'On another set of images' not in before
    found = external(tmp_path/'s', rows(drawings), twins=True, quiet=True)
    assert found.path == tmp_path/'s'/'external'/'the_table' and len(found.found['runs']) == 2
    assert 'On another set of images' in (tmp_path/'s'/'report.html').read_text()
    one = external(s.runs[0], rows(drawings, seed=2), twins=True, quiet=True)
    assert one.path.parent.parent == s.runs[0].path
    assert 'On another set of images' in (s.runs[0].path/'report.html').read_text()
    # a run that has such a folder is a run still, and may be replaced
    assert load_run(s.runs[0].path).name == 'resnet10t_0'

# ---- the commands

def test_from_end_to_end(made, drawings, tmp_path, capsys, monkeypatch):
    runs, films = made
    monkeypatch.chdir(tmp_path)
    def xray(*words):
        with warnings.catch_warnings(): code = main([str(w) for w in words])
        return code, *capsys.readouterr()
    code, out, err = xray('predict', runs[0].parent, films, '--threshold', 'COVID', '--quiet')
    assert code == 0 and 'COVID at its threshold' in out and '1 file could not be decoded' in out, err
    said = pd.read_csv('predictions.csv')
    assert list(said)[:2] == ['path', 'called'] and 'is_COVID' in said and 'disagreement' in said
    away = tmp_path/'clinic'/'labels.csv'
    away.parent.mkdir()
    rows(drawings).assign(label=lambda t: t.label.replace('COVID', 'corona')).to_csv(away, index=False)
    code, out, err = xray('external', *runs, away, '--map', 'corona=COVID', '--with-twins', '--quiet')
    assert code == 0 and 'at home' in out and (tmp_path/'external'/'clinic'/'report.html').is_file(), err
    code, out, err = xray('thresholds', runs[0], '--specificity', '0.9', '--prevalence', 'COVID=0.05')
    assert code == 0 and 'for a specificity of 0.9' in out and 'At a prevalence of 5 %' in out, err
    # the page of every file names what there is, and no more
    one_model = {f: t for f, t in OF_A_STUDY.items() if f != 'compare.csv'}
    assert wrong_of_run(runs[0]) + wrong(runs[0].parent, one_model) == []
    assert wrong('.', of_predict('predictions.csv')) + wrong('external/clinic', OF_A_SET) == []
    for words, why in ((['predict', films, films], 'is no run folder'), (['predict', runs[0]], 'give the images after'),
                       (['external', runs[0], away, films], 'then one folder of images'),
                       (['thresholds', films], 'is no run folder'),
                       (['external', runs[0], away, '--map', 'x'], 'LABEL=CLASS'),
                       (['predict', runs[0], films, '--out', 'x.xlsx'], '.csv'),
                       (['thresholds', runs[0], '--sensitivity', '2'], 'sensitivity=2'),
                       (['predict', runs[0], films, '--out', 'y.csv', '--threshold', 'flu'], 'of the classes')):
        code, out, err = xray(*words)
        assert code == 1 and why in err and out == '', (words, err)

@pytest.mark.slow
def test_a_study_beside_what_another_program_said(made, tmp_path, capsys):
    "The chosen model with both its seeds against a table: of one seed's own answers, so they agree on its accuracy"
    runs, _ = made
    p = load_run(runs[0]).predictions.of('test')
    columns = {f'prob_{c}': p.probs[:, i] for i, c in enumerate(p.classes)}
    pd.DataFrame(dict(path='/elsewhere/' + p.path) | columns).to_csv(tmp_path/'old.csv', index=False)
    assert main(['compare', str(runs[0].parent), str(tmp_path/'old.csv'), '--out', str(tmp_path/'out.csv')]) == 0
    said = capsys.readouterr().out
    assert f'On the same {len(p)} images' in said and '| Accuracy |' in said
    out = pd.read_csv(tmp_path/'out.csv').set_index('metric')
    assert (out.seeds_a == 2).all() and (out.seeds_b == 1).all()
    assert np.isclose(out.value_b['accuracy'], load_run(runs[0]).metrics['accuracy'])
    assert main(['compare', str(runs[0]), str(tmp_path/'none.csv')]) == 1
    assert 'is no run, study or .csv' in capsys.readouterr().err

def test_another_operating_point_leaves_the_numbers_alone(made):
    runs, _ = made
    before = (runs[1]/'metrics.json').read_bytes(), (runs[1]/'predictions.csv').read_bytes()
    with pytest.raises(ValueError, match='prevalence'): file_points(runs[1], prevalence=dict(flu=.1))
    point = file_points(runs[1], sensitivity=.8)
    assert load_run(runs[1]).thresholds == point
    assert ((runs[1]/'metrics.json').read_bytes(), (runs[1]/'predictions.csv').read_bytes()) == before

# ---- the methods section

def edited(run, place, **changes):
    "A copy of a run folder with other values in its config.json"
    shutil.copytree(run, place)
    config = json.loads((place/'config.json').read_text())
    (place/'config.json').write_text(json.dumps(config | changes))
    return place

def test_the_methods_of_a_study_have_the_numbers_of_its_files(made, drawings, tmp_path, capsys):
    runs, _ = made
    assert main(['methods', str(runs[0].parent), '--out', str(tmp_path/'new'/'m.md')]) == 0
    assert capsys.readouterr().out.endswith('for you to write\n')
    text = (tmp_path/'new'/'m.md').read_text(encoding='utf-8')
    each = [load_run(r) for r in runs]
    c, r = each[0].config, each[0]
    kept = ' and '.join(map(str, sorted({x.metrics['best_epoch'] for x in each})))
    temperatures = ' and '.join(f"{x.calibration['temperature']:.3f}" for x in each)
    counts = pd.crosstab(r.split.label, r.split.split).loc['COVID']
    for said in (f'were {c["images"]} images of', f'for {c["epochs"]} epochs by AdamW', f'batches of {c["bs"]} images',
                 f'learning rate of {c["lr"][1]:g}', f'decay of {c["wd"]:g}', f'dropout of {c["dropout"]:g} before',
                 f'for {c["head_epochs"]} epochs on the output', f'{c["size"]} × {c["size"]} pixels',
                 f'{kept} of {c["epochs"]}', 'seeds 0 and 1', f'per training ({temperatures})',
                 f'fitted on {r.calibration["fitted_on"]} validation', f'The {r.metrics["n"]} images of the test part',
                 f'| COVID | {counts["train"]} | {counts["valid"]} | {counts["test"]} | {counts.sum()} |',
                 f'PyTorch {r.environment["versions"]["torch"]}', f'accuracy is {each[1].metrics["accuracy"]:.3f} (',
                 'Patients were not known', 'random weights', 'not tested on images from',
                 'shortcuts (lungs', 'CutMix (Yun'): assert said in text, said
    before = text.partition('# Reporting')[0]
    for said in ('Holm', 'DeLong', 'folds', 'augmented', 'permutations', 'not be decoded', 'one training', 'CUDA'):
        assert said not in before, said
    assert not [p for p in r.split.path if Path(p).name in text]
    assert str(runs[0].parent) not in text and runs[0].name not in text
    assert main(['methods', str(runs[0].parent)]) == 0 and capsys.readouterr().out == text   # the same result twice
    assert main(['methods', str(tmp_path/'none')]) == 1 and 'it does not exist' in capsys.readouterr().err

@pytest.mark.parametrize('changes, come, gone', [
    (dict(epochs=7), 'for 7 epochs by AdamW', 'for 2 epochs by'),
    (dict(wd=.3), 'weight decay of 0.3', 'decay of 0.01'),
    (dict(precision='bf16'), 'in bfloat16 mixed precision', '32-bit'),
    (dict(class_weights='balanced', sampler='balanced'), 'inverse of its number of training images', 'same for each'),
    (dict(class_weights=['COVID=3']), 'COVID=3; all others 1', 'same for each'),
    (dict(head_epochs=0), 'The fine-tuned layers and the head were trained', 'First the head alone'),
    (dict(depth=0), 'with only its head trained', 'First the head alone'),
    (dict(depth=0, norms=3), 'The head and the normalisation layers of its last 3 layer groups were', 'only its head'),
    (dict(norms='all'), 'Then the fine-tuned layers, all its normalisation layers and the head were',
     'fine-tuned layers and the head'),
    (dict(norms=1), 'Then the fine-tuned layers and the head were', 'normalisation layers of'),
    (dict(augment=True), 'were augmented anew', 'No augmentation'),
    (dict(colour=True, resize='pad'), 'padded to a square, in red', 'in grey'),
    (dict(weights='timm/resnet10t.c3_in1k'), 'pretrained weights resnet10t', 'random weights: nothing'),
    (dict(exclude=['Doe_John*', 'b']), '2 name patterns', 'Doe'),
    (dict(seed=5), 'The seed was 5', 'The seed was 0'),
    (dict(split_seed=9), '(seed 9)', '(seed 0)'),
    (dict(projections=['PA', 'AP']), 'Only the views PA and AP', 'Only the views PA,'),
])
def test_another_value_in_the_config_is_another_sentence(made, tmp_path, changes, come, gone):
    from xray_xfer.report.checklist import methods_section
    text = methods_section(edited(made[0][0], tmp_path/'run', **changes), checklists=False)
    assert come in text and gone not in text

def test_what_is_not_on_file_is_not_told(made, tmp_path):
    from xray_xfer.report.checklist import methods_section
    home = edited(made[0][0], tmp_path/'Doe_John')
    for name in ('environment.json', 'twins.json', 'calibration.json', 'thresholds.json', 'predictions.csv',
                 'split.csv', 'summary.txt', 'gradcam.png', 'errors.png', 'timings.json', 'rejects.csv'):
        (home/name).unlink()
    text = methods_section(home)
    for said in ('Grad-CAM', 'Guo et al.', 'threshold on', 'CutMix', 'Paszke', 'were trained. The frozen',
                 'took', '| COVID |', 'Doe', 'came in', 'called wrongly'): assert said not in text, said
    for said in ('Calibration was not examined', 'No operating', 'machine are not on file', 'looked for is not on',
                 'is not on file (split.csv)', 'There was one training'): assert said in text, said
    (home/'environment.json').write_text('{')
    text = methods_section(home)
    assert 'environment.json is damaged, and nothing is told from it.' in text and str(tmp_path) not in text
    (home/'metrics.json').write_text('[]')
    with pytest.raises(ValueError, match='metrics.json is not as this version'): methods_section(home)

def test_a_file_that_cannot_be_written_is_left_as_it_was(made, tmp_path, capsys, monkeypatch):
    from xray_xfer.report import checklist
    file = tmp_path/'m.md'
    file.write_text('mine')
    def broken(*_): raise OSError('the disk is full')
    with monkeypatch.context() as m:
        m.setattr(checklist, 'methods_section', broken)
        assert main(['methods', str(made[0][0]), '--out', str(file)]) == 1
    assert file.read_text() == 'mine' and 'the disk is full' in capsys.readouterr().err
    assert main(['methods', str(made[0][0]), '--out', str(file), '--no-checklists']) == 0
    assert file.read_text(encoding='utf-8').startswith('# Methods') and 'CLAIM' not in file.read_text(encoding='utf-8')
    assert [p.name for p in tmp_path.iterdir()] == ['m.md']

# ---- found by review

@pytest.mark.slow
def test_two_sets_with_the_same_names_are_two(made, drawings, tmp_path):
    "Files of one name in two folders; two sets of one name"
    runs, films = made
    other = tmp_path/'other'
    shutil.copytree(films, other)
    predict_to(runs[0], films, tmp_path/'a.csv', quiet=True)
    with pytest.raises(FileExistsError, match='begun with other source'):
        predict_to(runs[0], other, tmp_path/'a.csv', quiet=True)
    for seed, place in enumerate(('x', 'y'), 1):
        (tmp_path/place/'clinic').mkdir(parents=True)
        rows(drawings, seed=seed).to_csv(tmp_path/place/'clinic'/'labels.csv', index=False)
    home = tmp_path/'run'
    shutil.copytree(runs[0], home)
    external(home, tmp_path/'x'/'clinic'/'labels.csv', twins=True, quiet=True)
    with pytest.raises(FileExistsError, match='another set that is called clinic'):
        external(home, tmp_path/'y'/'clinic'/'labels.csv', twins=True, quiet=True)

@pytest.mark.slow
def test_what_an_earlier_training_gave_is_not_shown_as_the_models(drawings, tmp_path):
    args = dict(out=tmp_path/'s', **SMALL)
    study(drawings, 'resnet10t', (0, 1), **args)
    external(tmp_path/'s', rows(drawings), twins=True, quiet=True)
    study(drawings, 'resnet10t', (0, 1), overwrite=True, **args | dict(lr=1e-3))
    page = (tmp_path/'s'/'report.html').read_text()
    assert 'is of an earlier training' in page and 'On another set of images:' not in page

def test_of_a_model_with_several_seeds_it_speaks_of_the_chosen_one(made, drawings, tmp_path):
    runs, _ = made
    shutil.copytree(runs[0].parent, tmp_path/'s')
    found = external(tmp_path/'s', rows(drawings), twins=True, quiet=True)
    assert [r['name'] for r in found.found['runs']] == ['resnet10t_1 seed 0', 'resnet10t_1 seed 1']
    assert 'resnet10t_1 seed' in (tmp_path/'s'/'report.html').read_text()

def test_a_mistyped_run_is_no_image(made, tmp_path, capsys):
    runs, films = made
    assert main(['predict', str(runs[0]), str(tmp_path/'rnu'), str(films/'00.png')]) == 1
    assert 'rnu does not exist' in capsys.readouterr().err

@pytest.mark.slow
def test_runs_of_two_sizes_and_a_whole_network_answer_together(made, drawings, tmp_path):
    from xray_xfer.train import run
    runs, films = made
    other = run(drawings, 'resnet10t', 'all', out=tmp_path, **SMALL | dict(size=96, colour=True, epochs=1))
    a, b, both = (predict(x, films, quiet=True) for x in (runs[0], other.path, [runs[0], other.path]))
    ends = [t.filter(regex='^prob_').to_numpy() for t in (a, b)]
    assert both.disagreement.between(0, 1).all() and len(both) == len(a)
    mean = np.mean(ends, axis=0)
    assert (both.filter(regex='^prob_').to_numpy().argmax(1) == mean.argmax(1)).mean() > .9
