"""Runs and studies on the disk: found again under another name, read where part of them is gone,
and refused where nothing can be written."""
import errno, os, shutil, subprocess, types
from pathlib import Path

import pytest
from fastai.learner import Learner
from PIL import Image
from safetensors.torch import save_file

from xray_xfer.data import demo
from xray_xfer.core import files
from xray_xfer.cli import main
from xray_xfer.controls.ask import controls
from xray_xfer.data.table import images_of
from xray_xfer.core.files import PlaceError, cache_dir, settled
from xray_xfer.runs.filing import load_model
from xray_xfer.runs.folder import load_run
from xray_xfer.core.files import read_json
from xray_xfer.models.classifier import build
from xray_xfer.data.packing import pack
from xray_xfer.report.compared import report
from xray_xfer.report.results import Study, load_study, study_of
from xray_xfer.study import study
from xray_xfer.train import run

ARCH = 'resnet10t'
FAST = dict(pretrained=False, size=64, epochs=1, bs=16, quiet=True)
RUNS = [f'{ARCH}_0', f'{ARCH}_1']

pytestmark = pytest.mark.usefixtures('plain_figures')

def xray(capsys, *words):
    "Exit code, stdout and stderr"
    code = main([str(w) for w in words])
    return (code, *capsys.readouterr())

def everything(folder): return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*'))

@pytest.fixture(scope='module')
def xrays(tmp_path_factory):
    root = tmp_path_factory.mktemp('runs')/'films'
    demo.draw(root, n=60, size=64)
    return root

@pytest.fixture(scope='module')
def filed(xrays, tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        from matplotlib.figure import Figure
        from xray_xfer import train
        m.setattr(train, 'run_figures', lambda *a: {'confusion.png': Figure(figsize=(1, 1))})
        return study(xrays, ARCH, (0, 1), **FAST, out=tmp_path_factory.mktemp('filed')/'s').path

@pytest.fixture
def home(filed, tmp_path): return shutil.copytree(filed, tmp_path/'s')

@pytest.fixture
def no_training(monkeypatch): monkeypatch.setattr(Learner, 'fit', lambda *a, **k: pytest.fail('it trained'))

# ---- the controls, from Python and by the command

def test_controls_from_python_reach_card_report_and_study(xrays, home):
    c = controls(home/RUNS[1], xrays, shuffled=False, quiet=True)
    for file in 'table.md', 'report.html', f'{RUNS[1]}/report.html', f'{RUNS[1]}/MODEL_CARD.md':
        assert 'lungs blacked out' in (home/file).read_text(), file
    assert c['sentence'] in (home/RUNS[1]/'MODEL_CARD.md').read_text().replace('\\', '')
    row = next(l for l in (home/'table.md').read_text().splitlines() if l.startswith('| Accuracy, lungs blacked out'))
    assert row.split('|')[2].strip() == 'not run' and float(row.split('|')[3].split()[0]) <= 1

def test_python_and_command_write_the_same(capsys, xrays, home, tmp_path):
    other = shutil.copytree(home, tmp_path/'other'/'s')
    controls(home/RUNS[0], xrays, shuffled=False, quiet=True)
    assert xray(capsys, 'controls', other/RUNS[0], xrays, '--no-shuffled', '--quiet')[0] == 0
    of_the_run = [f'{RUNS[0]}/{file}' for file in ('report.html', 'controls.json', 'MODEL_CARD.md')]
    for file in 'table.md', 'report.html', *of_the_run:
        assert (home/file).read_bytes() == (other/file).read_bytes(), file

@pytest.mark.parametrize('break_it', [
    lambda s: (s/'study.json').write_text('{'),
    lambda s: (s/'study.json').write_text('[]'),
], ids=['damaged', 'no list'])
def test_a_study_that_cannot_be_told_costs_no_controls(capsys, xrays, home, break_it):
    break_it(home)
    code, out, err = xray(capsys, 'controls', home/RUNS[0], xrays, '--no-shuffled', '--quiet')
    assert code == 0 and err.count('was not brought up to date') == 1
    assert (home/RUNS[0]/'controls.json').is_file() and "study's" not in out

def test_controls_of_what_has_no_folder(xrays, home, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='out=None'): controls(run(xrays, ARCH, **FAST, out=None), xrays, quiet=True)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(PermissionError, match='cannot be written'): controls(home/RUNS[0], xrays, quiet=True)

# ---- a place keeps its name after os.chdir

def test_a_relative_place_outlives_a_change_of_folder(xrays, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path/'me'))
    one = run(xrays, ARCH, **FAST, out='runs')
    at_home = run(xrays, ARCH, **FAST, out='~/runs', split=os.path.relpath(home/RUNS[0]/'split.csv'))
    read, many, single = load_run('runs/resnet10t_0'), load_study('s'), load_study(f's/{RUNS[0]}')
    assert repr(one).endswith(f"path='runs{os.sep}{ARCH}_0')"), 'what is printed may be short'
    again = study(xrays, ARCH, (0, 1), **FAST, out='s')
    built = Study('s', many.runs)
    monkeypatch.chdir('/')
    for r in (one, at_home, read, *many.runs, *single.runs, *again.runs):
        assert r.path.is_absolute() and (r.path/'config.json').is_file()
    assert at_home.path.parent == tmp_path/'me'/'runs' and many.path == again.path == built.path == tmp_path/'s'
    many.save()
    assert controls(read, xrays, shuffled=False, quiet=True) and load_model(one.path)
    assert load_run('~/runs/resnet10t_0').path == at_home.path and load_study('~/runs').runs
    assert report('~/runs') == at_home.path.parent/'report.html'
    with pytest.raises(FileNotFoundError, match=str(tmp_path/'me'/'none.csv')):
        run(xrays, ARCH, **FAST, out=tmp_path/'x', split='~/none.csv')

def test_a_relative_cache_is_one_cache(xrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XRAY_XFER_CACHE', 'a relative cache')
    table = images_of(xrays)
    first = pack(table, 64, quiet=True)
    (tmp_path/'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path/'elsewhere')
    assert pack(table, 64, quiet=True).reused and cache_dir() == tmp_path/'a relative cache'
    assert not list(tmp_path.glob('elsewhere/*'))
    assert first.path.is_relative_to(cache_dir())

# ---- what a run is, and what it is called

def as_folder(xrays, to): return shutil.copytree(xrays, to/'renamed')
def as_zip(xrays, to): return shutil.make_archive(str(to/'zipped'), 'zip', xrays)
def as_table(xrays, to): return images_of(xrays)
def as_pack(xrays, to): return pack(images_of(xrays), 64, quiet=True)
def as_csv(xrays, to):
    images_of(xrays).to_csv(to/'films.csv', index=False)
    return to/'films.csv'

@pytest.mark.parametrize('other', [as_folder, as_zip, as_csv, as_table, as_pack], ids=lambda f: f.__name__)
def test_the_same_images_under_another_name_are_the_same_run(xrays, home, tmp_path, no_training, other):
    before = {f: (home/f).read_bytes() for f in everything(home/RUNS[0]) if (home/f).is_file()}
    source = other(xrays, tmp_path)
    assert run(source, ARCH, 0, **FAST, out=home).config == read_json(home/RUNS[0]/'config.json')
    assert [r.config['data'] for r in study(source, ARCH, (0, 1), **FAST, out=home).runs] == ['films'] * 2
    assert all((home/f).read_bytes() == b for f, b in before.items())

def test_the_same_parts_from_a_file_are_the_same_run(xrays, home, tmp_path, no_training):
    shutil.copy(home/RUNS[0]/'split.csv', tmp_path/'my parts.csv')
    for how in (dict(split=tmp_path/'my parts.csv'), dict(split=home/RUNS[1]/'split.csv', split_seed=7, valid=.3)):
        assert run(xrays, ARCH, 0, **FAST, out=home, **how).learn is None

def test_the_same_weights_under_another_name_are_the_same_run(xrays, tmp_path, monkeypatch):
    save_file(build(ARCH, pretrained=False).backbone.state_dict(), tmp_path/'w.safetensors')
    run(xrays, ARCH, 0, **FAST | dict(pretrained=tmp_path/'w.safetensors'), out=tmp_path/'o')
    monkeypatch.setattr(Learner, 'fit', lambda *a, **k: pytest.fail('it trained'))
    shutil.copy(tmp_path/'w.safetensors', tmp_path/'renamed.safetensors')
    by_another_name = FAST | dict(pretrained=str(tmp_path/'renamed.safetensors'))
    assert run(xrays, ARCH, 0, **by_another_name, out=tmp_path/'o').learn is None
    # other numbers under the old name
    save_file(build(ARCH, pretrained=False).backbone.state_dict(), tmp_path/'w.safetensors')
    with pytest.raises(FileExistsError, match="pretrained 'w.safetensors sha256:"):
        run(xrays, ARCH, 0, **FAST | dict(pretrained=tmp_path/'w.safetensors'), out=tmp_path/'o')

def test_a_reject_thrown_away_is_the_same_run(xrays, tmp_path, monkeypatch):
    src = shutil.copytree(xrays, tmp_path/'src')
    (src/'COVID'/'images'/'broken.png').touch()
    with pytest.warns(UserWarning, match='1 of 61 files'): first = run(src, ARCH, **FAST, out=tmp_path/'o')
    (src/'COVID'/'images'/'broken.png').unlink()
    monkeypatch.setattr(Learner, 'fit', lambda *a, **k: pytest.fail('it trained'))
    assert run(src, ARCH, **FAST, out=tmp_path/'o').config['rejects'] == first.config['rejects'] == 1

def other_pixels(table):
    im = Image.open(table.path[0])
    im.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(table.path[0])
    return table
def other_label(table):
    return table.assign(label=[{'COVID': 'Normal'}.get(l, l) if i == 0 else l for i, l in enumerate(table.label)])
def fewer(table): return table.iloc[1:]
def other_groups(table): return table.assign(group=[f'p{i // 2}' for i in range(len(table))])

@pytest.mark.parametrize('change', [other_pixels, other_label, fewer, other_groups], ids=lambda f: f.__name__)
def test_other_images_under_the_old_name_are_another_run(xrays, home, tmp_path, no_training, change):
    src = shutil.copytree(xrays, tmp_path/'films')
    with pytest.raises(FileExistsError, match='data_digest'): run(change(images_of(src)), ARCH, 0, **FAST, out=home)

@pytest.mark.parametrize('setting, said', [
    (dict(split_seed=1), 'split_seed 0, now 1'),
    (dict(valid=.2), 'valid 0.1, now 0.2'),
    (dict(epochs=2), r'\(epochs 1, now 2\)'),
    (dict(wd=0.), r'\(wd 0.01, now 0.0\)'),
    (dict(groups=False), 'groups True, now False'),
    (dict(groups='almost'), "groups True, now 'almost'"),
])
def test_other_settings_are_another_run_also_on_renamed_images(xrays, home, tmp_path, no_training, setting, said):
    with pytest.raises(FileExistsError, match=said):
        run(as_folder(xrays, tmp_path), ARCH, 0, **FAST | setting, out=home)

def test_a_study_goes_on_after_the_images_were_renamed(xrays, home, tmp_path):
    s = study(as_folder(xrays, tmp_path), ARCH, (0, 1, 2), **FAST, out=home)
    assert [r.config['data'] for r in s.runs] == ['films', 'films', 'renamed'] and s.runs[0].learn is None
    assert 'must not be compared' not in s.caption
    assert 'not to be compared' not in (home/'report.html').read_text() and len(s.compare())

# ---- a study of which something is gone

def rename(s): (s/RUNS[0]).rename(s/'first try')
def move(s): shutil.move(s/RUNS[0], s.parent/RUNS[0])
def empty(s): [f.unlink() for f in (s/RUNS[0]).iterdir()]
def break_config(s): (s/RUNS[0]/'config.json').write_text('{"arch": ')
def no_config(s): (s/RUNS[0]/'config.json').write_text('[]')
def alien(s): (s/RUNS[0]/'config.json').write_text('{"model_type": "bert"}')
def no_metrics(s): (s/RUNS[0]/'metrics.json').unlink()
def to_file(s): shutil.rmtree(s/RUNS[0]); (s/RUNS[0]).touch()
SAID = {rename: 'first try', move: 'no such folder', empty: 'is empty', break_config: 'config.json is damaged',
        no_config: 'config.json is not as', alien: 'config.json is not as', no_metrics: 'metrics.json is missing',
        to_file: 'no such folder'}

@pytest.mark.parametrize('harm', SAID, ids=lambda f: f.__name__)
def test_a_run_that_is_gone_costs_its_own_column(capsys, xrays, home, harm):
    harm(home)
    code, out, err = xray(capsys, 'table', home)
    head = next(l for l in out.splitlines() if l.startswith('| metric'))
    assert code == 0 and 'resnet10t_1' in head and 'resnet10t_0' not in head
    assert err.count('note:') == 1 and '1 of the 2 runs' in err and RUNS[0] in err
    assert SAID[harm] in err and SAID[harm] in out
    code, out, err = xray(capsys, 'report', home)
    page = (home/'report.html').read_text()
    assert code == 0 and '1 of the 2 runs of this study cannot be shown' in page and SAID[harm] in page
    with pytest.warns(UserWarning, match='1 of the 2 runs'): load_study(home).save()
    assert read_json(home/'study.json')['runs'] == RUNS, 'it is still listed, for it may come back'

def test_what_only_the_table_needs(capsys, home):
    (home/RUNS[0]/'predictions.csv').write_bytes(b'')
    code, out, err = xray(capsys, 'table', home)
    assert code == 0 and 'resnet10t_0' not in out.splitlines()[2] and '1 of the 2 runs' in err
    assert xray(capsys, 'report', home)[0] == 0

def test_nothing_left_of_a_study(capsys, home):
    for n in RUNS: shutil.rmtree(home/n)
    for verb in 'table', 'report':
        code, out, err = xray(capsys, verb, home)
        assert code == 1 and all(f'{n}: there is no such folder' in err for n in RUNS) and err.count('\n') == 1

def test_a_renamed_run_is_back_with_its_name(home):
    rename(home)
    with pytest.warns(UserWarning): load_study(home).save()
    (home/'first try').rename(home/RUNS[0])
    assert list(load_study(home).table.columns) == RUNS

def test_the_table_of_one_run(capsys, home):
    code, out, err = xray(capsys, 'table', home/RUNS[1])
    assert (code, err) == (0, '') and '| metric | resnet10t_1 |' in out
    assert xray(capsys, 'table', home/RUNS[1], '--format', 'csv')[1].startswith('metric,resnet10t_1')
    with pytest.raises(ValueError, match='folder of one run'): load_study(home/RUNS[1]).save()
    assert read_json(home/'study.json')['runs'] == RUNS
    (home/'config.json').write_text('{"model_type": "bert"}')   # a study's folder stays a study's
    assert list(load_study(home).table.columns) == RUNS and report(home) == home/'report.html'

@pytest.mark.parametrize('words, said', [
    (['controls', 'S', 'demo'], 'S is no run folder: it has no config.json. '
                                'It holds resnet10t_0, resnet10t_1: give one of these folders'),
    (['controls', 'S/table.md', 'demo'], 'it is a file'),
    (['controls', 'nowhere', 'demo'], 'it does not exist'),
    (['table', '.'], 'holds no finished run, but S in it does: give'),
    (['table', 'S/table.md'], 'it is a file'),
    (['table', 'nowhere'], 'it does not exist'),
    (['report', 'nowhere'], 'it does not exist'),
    (['table', 'EMPTY'], 'holds no finished run: give'),
    (['report', '.'], 'S in it does'),
])
def test_a_folder_of_another_kind_is_told_what_it_is(capsys, filed, tmp_path, monkeypatch, words, said):
    shutil.copytree(filed, tmp_path/'w'/'S')
    (tmp_path/'w'/'EMPTY').mkdir()
    monkeypatch.chdir(tmp_path/'w')
    code, out, err = xray(capsys, *words)
    assert code == 1 and not out and err.count('\n') == 1 and said in err

def test_a_folder_that_is_no_run_of_ours_is_no_column(capsys, home):
    "Models from elsewhere lie beside single runs, each with a config.json"
    (home/'study.json').unlink()
    (home/'bert').mkdir()
    (home/'bert'/'config.json').write_text('{"model_type": "bert"}')
    code, out, err = xray(capsys, 'table', home)
    assert (code, err) == (0, '') and out.splitlines()[2] == '| metric | resnet10t_0 | resnet10t_1 |'

def test_which_study_a_run_is_in(home):
    assert study_of(home/RUNS[0]) == home and study_of(home) is None
    rename(home)
    assert study_of(home/'first try') is None

# ---- a place that cannot be used

def little(monkeypatch, free=3e6): monkeypatch.setattr(shutil, 'disk_usage', lambda p: types.SimpleNamespace(free=free))

def test_room_is_looked_for_before_training(capsys, xrays, home, tmp_path, no_training, monkeypatch):
    pack(images_of(xrays), 64, quiet=True)
    little(monkeypatch)
    place = tmp_path/'far'/'out'
    said = (rf'this run needs about 27\.\d MB, and {place} has 3.0 MB free; '
            r'work in another folder \(out=, --out\), or make room there')
    with pytest.raises(PlaceError, match=said) as e: run(xrays, ARCH, **FAST, out=place)
    assert e.value.errno == errno.ENOSPC and not (tmp_path/'far').exists()
    with pytest.raises(PlaceError, match=rf'a study of 2 runs needs about 5\d\.\d MB, and {place}'):
        study(xrays, ARCH, (0, 1), **FAST, out=place)
    # two of them are there
    with pytest.raises(PlaceError, match='this run needs about 27'):
        study(xrays, ARCH, (0, 1, 2), **FAST, out=home)
    assert run(xrays, ARCH, 0, **FAST, out=home).learn is None, 'what is there needs no room'
    with pytest.raises(PlaceError, match='this run needs'): run(xrays, ARCH, 0, **FAST, out=home, overwrite=True)
    code, out, err = xray(capsys, 'run', xrays, '--arch', ARCH, '--pretrained', 'false', '--size', 64, '--out', place,
                          '--quiet')
    assert code == 1 and f'{place} has 3.0 MB free' in err and 'Errno' not in err and err.count('\n') == 1

@pytest.mark.parametrize('what', ['the cache', 'the cache, features'])
def test_a_cache_without_room_is_named(capsys, xrays, tmp_path, monkeypatch, what):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    if what != 'the cache':
        pack(images_of(xrays), 64, quiet=True)
        pack(images_of(xrays), 224, quiet=True)   # as twins are sought in
    usage = shutil.disk_usage
    def usage_of(p): return types.SimpleNamespace(free=5e4) if Path(p).is_relative_to(tmp_path/'cache') else usage(p)
    monkeypatch.setattr(shutil, 'disk_usage', usage_of)
    code, out, err = xray(capsys, 'run', xrays, '--arch', ARCH, '--pretrained', 'false', '--size', 64, '--epochs', 1,
                          '--out', tmp_path/'o', '--quiet')
    assert code == 1 and str(tmp_path/'cache') in err and '50.0 kB free' in err
    assert 'XRAY_XFER_CACHE' in err and '0.0' not in err.replace('50.0', '')
    assert not (tmp_path/'o').exists()

def refuse(monkeypatch, folder, number):
    "Nothing can be made in `folder`: root is stopped by no rights, so the calls are"
    def stop(real):
        def call(path, *a, **k):
            if settled(path).is_relative_to(folder): raise OSError(number, os.strerror(number), str(path))
            return real(path, *a, **k)
        return call
    for name in 'mkdir', 'rename', 'replace': monkeypatch.setattr(os, name, stop(getattr(os, name)))

@pytest.mark.parametrize('number', [errno.EACCES, errno.EROFS, errno.EDQUOT], ids=['rights', 'read-only', 'quota'])
def test_a_cache_that_cannot_be_written_is_named(capsys, xrays, tmp_path, monkeypatch, number):
    cache = tmp_path/'cache'
    cache.mkdir()
    monkeypatch.setenv('XRAY_XFER_CACHE', str(cache))
    refuse(monkeypatch, cache, number)
    code, out, err = xray(capsys, 'check', xrays, '--size', 64, '--quiet')
    assert code == 1 and f'the cache is {cache}: set XRAY_XFER_CACHE to another folder' in err
    assert os.strerror(number) in err and 'Errno' not in err

@pytest.mark.parametrize('source', ['xrays', 'zip', 'demo'])
@pytest.mark.parametrize('below', ['', 'deep/er'])
def test_a_cache_that_is_a_file_is_named(capsys, xrays, tmp_path, monkeypatch, source, below):
    (tmp_path/'FILE').touch()
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'FILE'/below))
    data = dict(xrays=xrays, demo='demo', zip=tmp_path/'z.zip')[source]
    if source == 'zip': shutil.make_archive(str(tmp_path/'z'), 'zip', xrays)
    code, out, err = xray(capsys, 'check', data, '--size', 64, '--quiet')
    assert code == 1
    assert f'the cache is {tmp_path/"FILE"/below}: set XRAY_XFER_CACHE to another folder' in err
    assert 'damaged' not in err
    code, out, err = xray(capsys, 'cache')
    assert code == 1 and 'XRAY_XFER_CACHE' in err

def test_a_cache_that_is_only_read_serves(xrays, home, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    first = run(xrays, ARCH, **FAST, out=tmp_path/'a')
    refuse(monkeypatch, tmp_path/'cache', errno.EROFS)
    assert run(xrays, ARCH, **FAST, out=tmp_path/'b').metrics == first.metrics

@pytest.mark.parametrize('out', ['FILE', 'FILE/x', 'FILE/x/y'])
@pytest.mark.parametrize('verb', ['run', 'study'])
def test_an_out_that_is_a_file_is_refused_before_training(capsys, xrays, tmp_path, no_training, out, verb):
    (tmp_path/'FILE').touch()
    arch = '--arch' if verb == 'run' else '--archs'
    code, out, err = xray(capsys, verb, xrays, arch, ARCH, '--pretrained', 'false', '--size', 64, '--out', tmp_path/out,
                          '--quiet')
    assert code == 1 and f'{tmp_path/"FILE"} is a file; give a folder' in err

def test_a_full_disk_in_the_middle_names_its_place(capsys, xrays, tmp_path, monkeypatch):
    from xray_xfer.runs import filing
    def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(filing, 'write_split', full)
    code, out, err = xray(capsys, 'run', xrays, '--arch', ARCH, '--pretrained', 'false', '--size', 64, '--epochs', 1,
                          '--out', tmp_path/'o', '--quiet')
    assert code == 1
    assert f"{tmp_path/'o'/RUNS[0]} cannot be written: No space left on device (" in err
    assert 'free); work in another folder' in err and 'Errno' not in err
    assert everything(tmp_path) in ([], ['o'])

def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    for error in (PermissionError(errno.EACCES, 'Permission denied', '/elsewhere/image.png'), OSError('no number'),
                  FileNotFoundError(errno.ENOENT, 'No such file', 'x')):
        with pytest.raises(OSError) as e, files.replacing(tmp_path/'x'): raise error
        assert e.value is error

@pytest.fixture
def small_disk(tmp_path):
    "A file system of one megabyte"
    place = tmp_path/'small'
    place.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', place]
    if not shutil.which('mount') or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('needs the right to mount')
    yield place
    subprocess.run(['umount', place], check=True)

def test_on_a_disk_that_is_really_small(capsys, xrays, small_disk, tmp_path, monkeypatch):
    words = ['run', xrays, '--arch', ARCH, '--pretrained', 'false', '--size', 64, '--epochs', 1, '--quiet', '--out']
    code, out, err = xray(capsys, *words, small_disk/'o')
    assert code == 1 and f"{small_disk/'o'} has 1.0 MB free" in err and everything(small_disk) == []
    monkeypatch.setenv('XRAY_XFER_CACHE', str(small_disk/'cache'))
    code, out, err = xray(capsys, *words, tmp_path/'o')
    assert code == 1 and 'XRAY_XFER_CACHE' in err and str(small_disk) in err and not (tmp_path/'o').exists()

# ---- a note is said once

def notes(err): return [l for l in err.splitlines() if 'note:' in l]

def test_a_command_says_each_note_once(capsys, xrays, tmp_path):
    src = shutil.copytree(xrays, tmp_path/'src')
    (src/'COVID'/'images'/'broken.png').touch()
    shutil.copy(next((src/'Normal'/'images').iterdir()), src/'loose.png')
    (src/'Empty').mkdir()
    next((src/'COVID'/'masks').iterdir()).write_bytes(b'')
    words = ['study', src, '--archs', ARCH, '--depths', 'all', '--seeds', 0, 1, '--pretrained', 'false', '--size', 64,
             '--epochs', 1, '--controls', '--out', tmp_path/'o']
    code, out, err = xray(capsys, *words)
    said = notes(err)
    assert code == 0 and len(said) == len(set(said)), said
    for text in ('lies beside the class folders', 'no images in Empty', '1 of 61 files could not be decoded',
                 'nothing is frozen'):
        assert sum(text in l for l in said) == 1, text

def test_notes_on_a_given_split_are_said_once(capsys, xrays, tmp_path):
    table = images_of(xrays)
    table['split'] = (['train'] * 3 + ['test', 'valid']) * 12
    table['group'] = [f'p{i // 3}' for i in range(60)]
    table.to_csv(tmp_path/'t.csv', index=False)
    code, out, err = xray(capsys, 'study', tmp_path/'t.csv', '--archs', ARCH, '--depths', 0, 1, '--pretrained', 'false',
                          '--size', 64, '--epochs', 1, '--out', tmp_path/'o', '--quiet')
    assert code == 0 and sum('more than one part' in l for l in notes(err)) == 1
    assert len(notes(err)) == len(set(notes(err)))
    code, out, err = xray(capsys, 'run', tmp_path/'t.csv', '--arch', ARCH, '--pretrained', 'false', '--size', 64,
                          '--out', tmp_path/'p', '--epochs', 1, '--quiet')
    assert sum('more than one part' in l for l in notes(err)) == 1, 'the next command says it again'
