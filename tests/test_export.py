"""Exported files: that they say what the runs say, by the command too, and that a hostile one is refused before
anything of it runs. The hostile files that are not here are on the page of `inference.portable`."""
import json, shutil
from pathlib import Path

import numpy as np, onnx, pytest
from onnx import ModelProto, TensorProto, helper
from reference import keys, unnamed, unwritten

from xray_xfer import train
from xray_xfer.cli import main
from xray_xfer.core.files import read_csv
from xray_xfer.data.decode import decode
from xray_xfer.data.demo import draw
from xray_xfer.data.folds import folds_of
from xray_xfer.data.packing import pack
from xray_xfer.data.split import save_split
from xray_xfer.data.table import images_of
from xray_xfer.evaluate.calibration import scaled
from xray_xfer.inference import export, handing
from xray_xfer.inference.ensemble import load_ensemble
from xray_xfer.inference.portable import NotPortable, Portable, sealed
from xray_xfer.inference.reduced import probabilities
from xray_xfer.inference.stream import predict
from xray_xfer.runs.crossed import Crossing, crossed, save_crossed
from xray_xfer.runs.folder import load_run
from xray_xfer.train import run

SMALL = dict(pretrained=False, size=64, epochs=1, head_epochs=1, bs=16, groups=False, quiet=True)

@pytest.fixture(scope='module')
def films(tmp_path_factory):
    "Phantoms larger than the runs' frame"
    root = tmp_path_factory.mktemp('films')/'films'
    draw(root, n=60, size=96)
    return root

@pytest.fixture(scope='module')
def drawings(films): return images_of(films)

@pytest.fixture(scope='module')
def runs(drawings, tmp_path_factory):
    "Two archs; in colour, padded; and over folds"
    home = tmp_path_factory.mktemp('export')
    packed = pack(drawings, size=64, quiet=True)
    patch = pytest.MonkeyPatch()   # figures take longer than training
    patch.setattr(train, 'run_figures', lambda *a: {})
    found = dict(resnet=run(packed, 'resnet10t', 1, out=home/'a', **SMALL).path,
                 shuffle=run(packed, 'shufflenetv2_100', 0, out=home/'b', **SMALL).path)
    found['colour'] = run(drawings, 'resnet10t', 0, out=home/'c', resize='pad', colour=True, **SMALL).path
    made, place = [], home/'folds'
    for i, fold in enumerate(folds_of(packed.table, 2).each, 1):
        save_split(packed.table, fold.parts, home/f'{i}.csv')
        made.append(run(packed, 'resnet10t', 0, out=place, name=f'fold{i}', split=home/f'{i}.csv', **SMALL))
    save_crossed(crossed(made, place, Crossing(2, ['1', '2'])), {})
    patch.undo()
    return found | dict(folds=place)

@pytest.fixture(scope='module')
def film(runs, films, tmp_path_factory):
    "An exported file"
    return export(runs['resnet'], tmp_path_factory.mktemp('film')/'film.onnx', data=films).path

@pytest.mark.parametrize('name', ['resnet', 'shuffle', 'colour', 'folds'])
def test_a_file_says_what_its_run_says(runs, drawings, tmp_path, name):
    made = export(runs[name], tmp_path/'model.onnx', data=drawings)
    checks = made.about['checks']
    assert checks['on'] == 'test image' and checks['same_class'] == checks['files'] > 0
    assert checks['largest_on_pixels'] <= 1e-4 and checks['largest_from_files'] <= .02
    by_file, by_run = (predict(of, drawings.path[::4], quiet=True) for of in (made.path, runs[name]))
    columns = [c for c in by_file if c.startswith('prob_')]
    assert abs(by_file[columns] - by_run[columns]).max(axis=None) <= 1e-4
    # and the graph by itself, from a picture of another size
    file, member = Portable.read(made.path), load_ensemble(runs[name], 'cpu').members[0]
    film = decode(drawings.path[0], None, colour=file.frame.colour)
    assert film.shape[-2:] != (64, 64)
    want = scaled(member(decode(drawings.path[0], *file.frame)[None]).logits, member.temperature)
    assert abs(probabilities(file.session, film[None]) - want).max() <= .02
    [said] = file.session.run(['probabilities'], dict(images=np.stack([film] * 3)))   # a batch of another number
    assert said.shape == (3, 4) and np.allclose(said.sum(1), 1, atol=1e-5)

def test_the_same_run_gives_the_same_bytes(runs, film, films, tmp_path):
    assert export(runs['resnet'], tmp_path/'a.onnx', data=films).path.read_bytes() == film.read_bytes()

def test_what_a_file_says_of_itself(runs, film):
    r, about = load_run(runs['resnet']), Portable.read(film).about
    assert about['classes'] == r.config['classes'] and about['thresholds'] == r.thresholds
    assert about['facts']['test']['accuracy'] == dict(value=r.metrics['accuracy'],
                                                      interval=r.metrics['intervals']['accuracy'])
    assert 'not' in about['use'].lower() and str(Path.home()) not in json.dumps(about)
    assert str(runs['resnet'].parent) not in json.dumps(about)
    read = onnx.load(film)
    onnx.checker.check_model(read, full_check=True)
    assert {p.key for p in read.metadata_props} >= {'xray_xfer.classes', 'xray_xfer.digest', 'xray_xfer.use'}

def test_without_test_images_drawn_pictures_are_looked_at(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lost = load_run(runs['colour'])
    lost.config['data'] = 'nowhere'
    made = export(lost, 'model.onnx')
    assert made.path == tmp_path/'model.onnx' and made.about['checks']['on'] == 'drawn picture'
    assert any('not checked on test images' in line for line in made.lines)
    with pytest.raises(ValueError, match='int8 needs training images'): export(lost, 'int8.onnx', int8=True)
    assert not (tmp_path/'int8.onnx').exists()

def test_a_file_that_answers_otherwise_is_not_written(runs, drawings, tmp_path, monkeypatch):
    whole = handing.assembled
    monkeypatch.setattr(handing, 'assembled', lambda models, t, *rest: whole(models, [4 * x for x in t], *rest))
    with pytest.raises(handing.Unequal, match='was not written'):
        export(runs['resnet'], tmp_path/'m.onnx', data=drawings)
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('precision', ['int8', 'fp16'])
def test_reduced_files(runs, film, drawings, tmp_path, precision):
    made = export(runs['resnet'], tmp_path/'m.onnx', data=drawings, **{precision: True})
    of, n = made.about['costs'], len(load_run(runs['resnet']).predictions.of('test'))
    said = keys({**made.about, 'thresholds': {}, 'format': 1, 'digest': ''})
    assert unnamed(said, 'onnx') == unwritten(said, 'onnx') == []
    assert of['images'] == n and of['bytes']['small'] < of['bytes']['full'] * .6 and of['machine']
    assert Portable.read(made.path).about['precision'] == precision
    by_full, by_small = (predict(p, drawings.path, quiet=True) for p in (film, made.path))
    columns = [c for c in by_full if c.startswith('prob_')]
    assert 0 < abs(by_full[columns] - by_small[columns]).max(axis=None) < .1
    assert any('images/s' in line for line in made.lines)

def test_the_command(runs, film, films, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['export', str(runs['shuffle']), '--images', str(films), '--device', 'cpu']) == 0
    said = capsys.readouterr().out
    assert 'same class in' in said and 'clinical' in said and (runs['shuffle']/'model.onnx').is_file()
    shutil.copy(next(films.rglob('COVID-1.png')), tmp_path/'a.png')
    mixed = [str(film), str(runs['shuffle']/'model.onnx'), str(runs['colour'])]   # several files and a run
    assert main(['predict', *mixed, 'a.png', '--out', 'said.csv', '--quiet']) == 0
    assert {'disagreement', 'prob_COVID'} <= set(read_csv(tmp_path/'said.csv').columns)
    point = load_run(runs['resnet']).thresholds['classes']['COVID']['point']['threshold']
    args = ['predict', str(film), 'a.png', '--out', 'film.csv', '--threshold', 'COVID', '--quiet']
    if point is not None:
        assert main(args) == 0
        row = read_csv(tmp_path/'film.csv').iloc[0]
        assert row.is_COVID == ('yes' if row.prob_COVID >= point else 'no')
    capsys.readouterr()
    assert main(['external', str(film), str(tmp_path), '--quiet']) == 1
    assert 'external needs what is in the folder of its run' in capsys.readouterr().err
    assert main(['thresholds', str(film)]) == 1
    assert 'Give the folder of its run' in capsys.readouterr().err
    # a file and the run that it was made of are one
    assert main(['predict', str(film), str(runs['resnet']), 'a.png', '--quiet']) == 1
    assert 'given twice' in capsys.readouterr().err
    assert main(['export', str(runs['resnet']), '--int8', '--fp16']) == 1
    assert 'give one of them' in capsys.readouterr().err

# ---- hostile files

def resealed(film, change=None, **words):
    "A forged file: changed, and sealed anew"
    model, about = onnx.load(film), Portable.read(film).about
    if change: change(model)
    return sealed(model, {k: v for k, v in (about | words).items() if k not in ('format', 'digest')})

def in_a_subgraph(model):
    weights = TensorProto(name='w', dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key='location', value='../../etc/passwd')
    inner = helper.make_graph([], 'inner', [], [], [weights])
    model.graph.node.append(helper.make_node('If', ['c'], ['d'], then_branch=inner, else_branch=inner))

def as_an_attribute(model):
    weights = TensorProto(name='w', dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node('Constant', [], ['d'], value=weights))

def a_function(model): model.functions.append(onnx.FunctionProto(name='f', domain='evil'))
def twice(model): model.graph.output.append(model.graph.output[0])
def four_outputs(model): model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
def another_input(model): model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

@pytest.mark.parametrize('change, why', [
    (in_a_subgraph, 'lie in another file'), (as_an_attribute, 'lie in another file'), (a_function, 'functions of its'),
    (four_outputs, 'does not take and give'), (another_input, 'does not take and give'),
    (twice, 'does not take and give'),
])
def test_a_forged_graph_is_refused(film, tmp_path, change, why):
    (tmp_path/'m.onnx').write_bytes(resealed(film, change))
    with pytest.raises(NotPortable, match=why): Portable.read(tmp_path/'m.onnx')

FOUR = ['a', 'b', 'c', 'd']

@pytest.mark.parametrize('words', [
    dict(classes='abcd'), dict(classes=FOUR[:3] + ['c']), dict(classes=['a\n', *FOUR[1:]]), dict(classes=FOUR[:3]),
    dict(classes=['\u202egnp.exe', *FOUR[1:]]), dict(classes=['a\x00', *FOUR[1:]]), dict(temperature=10**400),
    dict(classes=['x' * 5000, *FOUR[1:]]), dict(temperature=0), dict(temperature=True), dict(frame=dict(size=10**9)),
    dict(frame=[]),
    dict(frame=dict(size=64, resize='crop', colour=False, read_as={})), dict(thresholds=[]), dict(weights=3),
    dict(thresholds=dict(classes={c: dict(point=dict(threshold='0.5')) for c in FOUR})), dict(use=None),
])
def test_forged_words_are_refused(film, tmp_path, words):
    (tmp_path/'m.onnx').write_bytes(resealed(film, **words))
    with pytest.raises(NotPortable): Portable.read(tmp_path/'m.onnx')

def test_metadata_that_are_no_json(film, tmp_path):
    from xray_xfer.inference import portable
    model = onnx.load(film)
    for text in ('{', '[' * 100_000, 'NaN', ''):
        next(p for p in model.metadata_props if p.key == 'xray_xfer.temperature').value = text
        body = ModelProto()
        body.CopyFrom(model)
        del body.metadata_props[-1]   # the seal
        data = body.SerializeToString()
        (tmp_path/'m.onnx').write_bytes(data + portable._seal(data))
        with pytest.raises(NotPortable): Portable.read(tmp_path/'m.onnx')

def test_names_that_a_page_would_run_stay_names(film, drawings, tmp_path):
    names = ['<script>alert(1)</script>', '=cmd|calc', '"; rm -rf', 'é']
    (tmp_path/'m.onnx').write_bytes(resealed(film, classes=names, thresholds={}))
    said = predict(tmp_path/'m.onnx', drawings.path[:2], quiet=True)
    assert set(said.called) <= set(names)

def test_damaged_files_are_refused(film, tmp_path):
    whole, rng = film.read_bytes(), np.random.default_rng(0)
    place = tmp_path/'m.onnx'
    for n in (0, 1, 50, 1000, len(whole) // 2, len(whole) - 1):
        place.write_bytes(whole[:n])
        with pytest.raises(NotPortable): Portable.read(place)
    for at in rng.integers(0, len(whole), 10):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(NotPortable): Portable.read(place)

def test_a_file_larger_than_is_read_is_not_read(film, tmp_path):
    place = tmp_path/'m.onnx'
    with open(place, 'wb') as f: f.truncate(2 * 10**9)   # a hole, which takes no room
    with pytest.raises(NotPortable, match='2.0 GB, and 1.0 GB are read at most'): Portable.read(place)
    # a length of 2 GB in a small file, sealed
    from xray_xfer.inference import portable
    claim = b'\x3a\xff\xff\xff\xff\x07' + film.read_bytes()[:100]
    place.write_bytes(claim + portable._seal(claim))
    with pytest.raises(NotPortable, match='no ONNX file'): Portable.read(place)
