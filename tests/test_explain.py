"""Where a run looks, from end to end: names that collide or lead elsewhere, files that cannot be read, what is
refused, and a second start. Runs over folds: test_folds.py."""
import json, os, shutil
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image
from reference import OF_PICTURES, wrong

from xray_xfer import train
from xray_xfer.cli import main
from xray_xfer.core.files import read_csv
from xray_xfer.data.table import images_of
from xray_xfer.inference import maps, predict, sheet
from xray_xfer.inference.maps import Explained, Explainer
from xray_xfer.inference.sheet import explain
from xray_xfer.models.classifier import build
from xray_xfer.runs.folder import load_run
from xray_xfer.study import study

pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.usefixtures('plain_figures')]
SMALL = dict(pretrained=False, size=64, epochs=1, bs=8, quiet=True, device='cpu')

@pytest.fixture(scope='module')
def home(xrays, tmp_path_factory):
    "The folder of a run, in a study's"
    with pytest.MonkeyPatch.context() as patch:   # its own figures take longer than its training
        patch.setattr(train, 'run_figures', lambda *a: {})
        return study(xrays, 'resnet10t', 1, out=tmp_path_factory.mktemp('explain')/'study', **SMALL).runs[0].path

@pytest.fixture(scope='module')
def paths(xrays): return images_of(xrays).path.tolist()

@pytest.fixture
def films(paths, tmp_path):
    "Two wards whose films have the same names, and a file that is no film"
    for i, path in enumerate(paths[:6]):
        (tmp_path/'films'/f'ward{i % 2}').mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path/'films'/f'ward{i % 2}'/f'{i // 2}.png')
    (tmp_path/'films'/'broken.png').write_bytes(Path(paths[0]).read_bytes()[:300])
    return tmp_path/'films'

def written(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob('*') if f.is_file()}

def test_from_end_to_end(home, films, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def xray(*words): return main([str(w) for w in words]), *capsys.readouterr()
    code, out, err = xray('explain', home, films, '--quiet')
    assert code == 0 and out.startswith('6 images: called ') and 'Not for clinical use' in out, err
    assert '1 file could not be decoded: explained/rejects.csv' in out
    rows, said = read_csv('explained/explained.csv'), predict(home, films, quiet=True)
    assert list(rows) == ['path', 'explained', 'called', 'prob', 'picture']
    assert rows.path.tolist() == said.path.tolist() and rows.called.tolist() == said.called.tolist()
    assert rows.prob.tolist() == pytest.approx([r[f'prob_{r.called}'] for _, r in said.iterrows()], abs=1e-4)
    assert read_csv('explained/rejects.csv').path.tolist() == ['broken.png'] and wrong('explained', OF_PICTURES) == []
    assert rows.picture.is_unique and {p.name for p in Path('explained').glob('*.png')} == set(rows.picture)
    for name in rows.picture: assert Image.open(f'explained/{name}').format == 'PNG'
    before = written(tmp_path/'explained')
    assert xray('explain', home, films, '--quiet')[0] == 0 and written(tmp_path/'explained') == before   # again
    code, out, err = xray('explain', home, films, '--sheet', '--target', 'Normal', '--exclude', 'ward1', '--quiet')
    rows = read_csv('explained/explained.csv')   # in the place of the pictures
    assert code == 0 and len(rows) == 3
    assert set(rows.explained) == {'Normal'} and set(rows.picture) == {'explained-001.png'}
    assert sorted(p.name for p in Path('explained').iterdir()) == [
        'explained-001.png', 'explained.csv', 'explained.json', 'rejects.csv']
    for words, why in (
        (['explain', home, home, films], 'maps are of one run; give one'),
        (['explain', home, films, '--target', 'flu'], 'give one of the classes COVID, Lung_Opacity, Normal'),
        (['explain', films], 'is no run folder'), (['explain', home], 'give the images after'),
        (['explain', home, films, '--out', films], 'holds what an earlier start did not write (broken.png, ward0'),
        (['explain', home, films, '--out', films/'broken.png'], 'is no folder'),
        (['explain', home, tmp_path/'none.csv', '--out', 'x'], 'does not exist'),
    ):
        code, out, err = xray(*words)
        assert code == 1 and why in err and out == '', (words, err)
    assert not Path('x').exists()

def test_all_sources_give_the_same(home, films, tmp_path):
    "A folder, a zip of it, a table with other columns, and files"
    shutil.make_archive(str(tmp_path/'films_zip'), 'zip', films)
    names = sorted(p.relative_to(films).as_posix() for p in films.rglob('*.png'))
    table = pd.DataFrame(dict(path=[str(films/n) for n in names], label='flu', group='g'))
    for i, images in enumerate((films, tmp_path/'films_zip.zip', table, table.path.tolist())):
        explain(home, images, tmp_path/f'{i}', quiet=True)
    found = [read_csv(tmp_path/f'{i}'/'explained.csv') for i in range(4)]
    for other in found[1:]: pd.testing.assert_frame_equal(other.iloc[:, 1:], found[0].iloc[:, 1:])

@pytest.mark.skipif(os.name != 'posix', reason='names that are no text')
def test_names_that_nobody_should_give(home, paths, tmp_path):
    "They stay in the folder, do not collide, and are no formula"
    names = [b'=1+1.png', b'a,"b".png', b'two\nlines.png', '日本.png'.encode(), b'caf\xe9.png', b'..png', b'-x.png',
             b'explained.png', b'CON.png', b'long' * 60 + b'.png', b'A.png', b'a.png', b'a.PNG']
    (tmp_path/'films').mkdir()
    for n in names: shutil.copy(paths[0], os.path.join(os.fsencode(tmp_path/'films'), n))
    table = pd.DataFrame(dict(path=[*(os.fsdecode(os.path.join(os.fsencode(tmp_path/'films'), n)) for n in names),
                                    f'{tmp_path}/films/../films/A.png', paths[1]]))
    done = explain(home, table, tmp_path/'out', quiet=True)
    rows = read_csv(done.path/'explained.csv')
    assert len(rows) == done.images == len(names) + 2 and rows.picture.is_unique
    assert {p.name for p in done.path.glob('*.png')} == set(rows.picture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['films', 'out']
    assert all(n.startswith('0') and len(os.fsencode(n)) < 200 and os.sep not in n for n in rows.picture)
    explain(home, tmp_path/'films', tmp_path/'out', quiet=True)   # by their names alone; what is hidden is no image
    assert {os.fsencode(p) for p in read_csv(done.path/'explained.csv').path} == {
        b"'" + n if n[:1] in b'=-' else n for n in names if n[:1] != b'.'}

def test_what_is_not_its_own_stays(home, films, tmp_path):
    "A note in the folder, a folder that only looks like its own; and its pictures are no images"
    out = films/'explained'
    first = explain(home, films, out, quiet=True)
    again = explain(home, films, out, quiet=True)   # its own pictures lie among the images
    assert again == first and read_csv(out/'explained.csv').path.str.startswith('ward').all()
    (out/'notes.txt').write_text('years')
    with pytest.raises(FileExistsError, match=r'did not write \(notes.txt\): give another out='):
        explain(home, films, out, quiet=True)
    assert (out/'notes.txt').read_text() == 'years'
    (out/'notes.txt').unlink()
    (out/'explained.json').write_text('{')
    with pytest.raises(FileExistsError, match='did not write'): explain(home, films, out, quiet=True)
    with pytest.raises(ValueError, match='where the pictures go'):
        (out/'explained.json').write_text(json.dumps(dict(files=[p.name for p in out.iterdir()])))
        explain(home, [str(p) for p in out.glob('*.png')], out, quiet=True)

def test_stopped_it_leaves_nothing_and_an_older_folder_alone(home, films, tmp_path, monkeypatch, capsys):
    explain(home, films, tmp_path/'out', quiet=True)
    before = written(tmp_path/'out')
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(sheet, 'pair', stop)
    for out in ('out', 'new'):
        assert main(['explain', str(home), str(films), '--out', str(tmp_path/out), '--quiet']) == 130
        assert 'nothing was written' in capsys.readouterr().err
    assert written(tmp_path/'out') == before and sorted(p.name for p in tmp_path.iterdir()) == ['films', 'out']

def test_none_could_be_decoded(home, tmp_path):
    (tmp_path/'films').mkdir()
    (tmp_path/'films'/'a.png').write_bytes(b'x')
    done = explain(home, tmp_path/'films', tmp_path/'out', sheet=True, quiet=True)
    assert (done.images, done.rejects, done.lines[0]) == (0, 1, 'no image')
    assert len(read_csv(done.path/'rejects.csv')) == 1 and not list(done.path.glob('*.png'))

def test_sheets_hold_24(home, paths, tmp_path):
    done = explain(home, paths[:30], tmp_path/'out', sheet=True, quiet=True)
    files = read_csv(done.path/'explained.csv').picture.value_counts()
    assert files.to_dict() == {'explained-001.png': 24, 'explained-002.png': 6}

def test_the_patient_is_in_no_picture(home, paths, tmp_path):
    "What a DICOM header says is neither in the files nor, as text, in the pixels: another patient gives the same bytes"
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    pixels = np.asarray(Image.open(paths[0]).convert('L'))
    for who in ('Planted^Name', 'Other^One'):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = '1.2.840.10008.5.1.4.1.1.1.1'
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(entropy_srcs=['x'])
        ds.PatientName, ds.PatientID, ds.Modality = who, who, 'DX'
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *pixels.shape, 1, 'MONOCHROME2'
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = pixels.tobytes()
        (tmp_path/'films').mkdir(exist_ok=True)
        ds.save_as(tmp_path/'films'/'film.dcm', enforce_file_format=True)
        done = explain(home, tmp_path/'films', tmp_path/who[:5], quiet=True)
        assert (done.images, done.rejects) == (1, 0)
    one, other = written(tmp_path/'Plant'), written(tmp_path/'Other')
    assert one == other and not any(b'Planted' in text for text in one.values())

# ---- runs

def test_what_has_no_maps_says_so(home, tmp_path, monkeypatch, paths):
    (tmp_path/'model.onnx').write_bytes(b'x')
    with pytest.raises(ValueError, match='is an ONNX file, .* give the folder of the run'):
        Explainer(tmp_path/'model.onnx')
    mixer = build('mixer_s32_224', 0, 4, pretrained=False)
    shutil.copytree(home, tmp_path/'mixer')
    config = json.loads((home/'config.json').read_text())
    (tmp_path/'mixer'/'config.json').write_text(json.dumps(config | dict(size=224, arch='mixer_s32_224')))
    monkeypatch.setattr(maps, 'load_model', lambda path: mixer)
    with pytest.raises(ValueError, match='not defined for mixer_s32_224.* are no map. maps take a backbone'):
        explain(tmp_path/'mixer', paths[:1], tmp_path/'out', quiet=True)
    assert not (tmp_path/'out').exists()
    with pytest.raises(ValueError, match='was not filed'):
        Explainer(replace(load_run(home), path=None))

def test_several_seeds_are_several_runs(home, paths, tmp_path):
    shutil.copytree(home.parent, tmp_path/'s')
    assert explain(tmp_path/'s', paths[:2], tmp_path/'out', quiet=True).images == 2   # of a study the chosen model
    (tmp_path/'s'/'study.json').write_text(json.dumps(dict(schema=1, runs=['resnet10t_1', 'resnet10t_1_seed1'])))
    shutil.copytree(home, tmp_path/'s'/'resnet10t_1_seed1')
    config = json.loads((home/'config.json').read_text()) | dict(seed=1)
    (tmp_path/'s'/'resnet10t_1_seed1'/'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='are the seeds of its chosen model: give one'):
        explain(tmp_path/'s', paths[:2], tmp_path/'out', quiet=True)

@pytest.mark.parametrize('arch,size', [('vit_tiny_patch16_224', 64), ('deit_tiny_distilled_patch16_224', 64)])
def test_tokens_lie_on_the_image(home, arch, size, tmp_path, monkeypatch):
    "Through the whole way from a run: maps of the size of the frame, of a transformer's tokens"
    tokens = build(arch, 0, 4, pretrained=False, size=size)
    monkeypatch.setattr(maps, 'load_model', lambda path: tokens)
    found = Explainer(home)(np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8), [0, 1, 2])
    assert isinstance(found, Explained) and found.maps.shape == (3, size, size)
    assert ((0 <= found.maps) & (found.maps <= 1)).all() and found.maps.any()
