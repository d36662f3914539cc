"Sources nobody would put on a page: hostile archives and trees, processes that die, disks that fill up."
import errno
import multiprocessing
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import types
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import xray_xfer.data.fetch as fetch
import xray_xfer.core.files as files
from xray_xfer.data.table import images_of
from xray_xfer.data.columns import relative_paths
from xray_xfer.core.files import replacing, sweep

SOUP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


def png(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (4, 4), value).save(path, 'PNG')
    return path


def tree(root, *files):
    for f in files: png(root/f)
    return root


def names(table): return relative_paths(table)


# ---- replacing

def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv('XRAY_XFER_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert files.cache_dir() == tmp_path/'xray_xfer'
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')    # to be ignored, says the standard
    assert files.cache_dir() == Path.home()/'.cache'/'xray_xfer'


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, 'No space left on device')])
def test_a_failing_body_leaves_the_old_folder(tmp_path, error):
    dest = tmp_path/'run'
    (dest/'deep').mkdir(parents=True)
    (dest/'deep'/'old').write_text('old')
    with pytest.raises(error if isinstance(error, type) else OSError):
        with replacing(dest) as part:
            (part/'deep').mkdir(parents=True)
            (part/'deep'/'new').write_text('half')
            raise error
    assert os.listdir(tmp_path) == ['run'] and (dest/'deep'/'old').read_text() == 'old'


def test_a_file_takes_the_place_of_a_folder_and_back(tmp_path):
    dest = tmp_path/'x'
    dest.mkdir()
    (dest/'a').touch()
    with replacing(dest) as part: part.write_text('file')
    assert dest.read_text() == 'file'
    with replacing(dest) as part: part.mkdir()
    assert dest.is_dir() and os.listdir(tmp_path) == ['x']


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing was written'):
        with replacing(tmp_path/'x'): pass


def _replace_often(dest, me, start):
    start.wait()
    for i in range(40):
        with replacing(dest) as part:
            part.mkdir()
            for j in range(3): (part/str(j)).write_text(f'{me} {i}')


def test_two_processes_finish_the_same_folder(tmp_path):
    ctx = multiprocessing.get_context('fork')
    start = ctx.Event()
    jobs = [ctx.Process(target=_replace_often, args=(tmp_path/'dest', me, start)) for me in range(3)]
    for j in jobs: j.start()
    start.set()
    for j in jobs: j.join(60)
    assert [j.exitcode for j in jobs] == [0, 0, 0]
    assert os.listdir(tmp_path) == ['dest']
    assert len({f.read_text() for f in (tmp_path/'dest').iterdir()}) == 1 and len(os.listdir(tmp_path/'dest')) == 3


def test_sweep_takes_the_dead_and_leaves_the_living(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    part = lambda pid, host: tmp_path/f'.x.{pid}-{host}01234567.part'
    gone, mine, old = part(dead.pid, files._HOST), part(os.getpid(), files._HOST), part(os.getpid(), 'ffff')
    # a process of another machine is none of ours
    other = part(dead.pid, 'eeee' if files._HOST != 'eeee' else 'dddd')
    for p in (gone, mine, other, old):
        p.mkdir()
        (p/'f').touch()
    os.utime(old, (0, 0))
    (tmp_path/'.user.part').touch()
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, other.name, '.user.part'}
    sweep(tmp_path/'nowhere')


# ---- trees

def test_every_file_is_a_row_but_masks_and_system_files(tmp_path):
    root = tree(
        tmp_path / 'set', 'A/1.png', 'A/sub/deep/2.png', 'A/MASKS/1.png', 'A/sub/masks/deep/2.png',
        'A/.hidden.png', 'A/.git/3.png', 'A/__MACOSX/1.png', 'A/Thumbs.db', 'A/desktop.ini', 'A/4.png',
        'A/4_mask.png', 'A/lonely_mask.png', 'B/1.png',
    )
    (root/'A'/'notes.txt').write_text('x')
    (root/'A'/'scan.dcm').write_text('x')
    t = images_of(root)
    assert names(t) == [
        'A/1.png', 'A/4.png', 'A/lonely_mask.png', 'A/notes.txt', 'A/scan.dcm', 'A/sub/deep/2.png',
        'B/1.png',
    ]
    assert t['mask'][0] == str(root/'A'/'MASKS'/'1.png') and t['mask'][1] == str(root/'A'/'4_mask.png')
    # sub/deep/2 and sub/masks/deep/2 belong together
    assert t['mask'].isna().tolist() == [False, False, True, True, True, False, True]
    assert isinstance(t.index, pd.RangeIndex)


def test_a_pipe_a_socket_and_links(tmp_path):
    root = tree(tmp_path/'set', 'A/1.png', 'B/1.png')
    os.mkfifo(root/'A'/'pipe.png')
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(root/'A'/'s.png'))
    (root/'A'/'self').symlink_to(root/'A')
    (root/'A'/'up').symlink_to(root)
    (root/'A'/'knot').symlink_to('knot')
    (root/'A'/'gone.png').symlink_to('nowhere.png')
    (root/'A'/'linked.png').symlink_to('1.png')
    a = names(images_of(root))
    # what is no image becomes a reject later
    assert {'A/1.png', 'A/gone.png', 'A/linked.png', 'A/pipe.png', 'A/knot'} <= set(a)
    assert len(a) < 20


def test_a_wrapper_that_links_to_itself_ends(tmp_path):
    (tmp_path/'set').mkdir()
    (tmp_path/'set'/'a').symlink_to(tmp_path/'set')
    with pytest.raises(ValueError): images_of(tmp_path/'set')


def test_names_in_any_alphabet(tmp_path):
    e = unicodedata.normalize('NFD', 'é')
    root = tree(
        tmp_path / 'Ünïcode ☢',
        f'{e}t{e}/images/胸部 X線 1.png',
        f'{e}t{e}/images/{e}.png',
        'рентген/أشعة.png',
        'рентген/new\nline "q",.png',
    )
    png(root/f'{e}t{e}'/'masks'/'é.png')       # the mask's name is in the other Unicode spelling
    raw = os.fsencode(root/'рентген') + b'/\xff\xfe.png'
    with open(raw, 'wb') as f: f.write(b'x')
    t = images_of(root)
    assert sorted(set(t.label)) == ['été', 'рентген'] and len(t) == 5
    assert os.fsdecode(raw) in t.path.tolist()
    assert t['mask'].notna().sum() == 1
    for p in relative_paths(t): p.encode()
    assert images_of(t).equals(t)


def test_the_order_is_not_the_file_systems(tmp_path, monkeypatch):
    root = tree(tmp_path/'set', *(f'{c}/{c}{s}/im-{i}.png' for c in 'ba' for s in (2, 10) for i in (1, 10, 9)))
    want = images_of(root)
    assert names(want)[:6] == [f'a/a{s}/im-{i}.png' for s in (2, 10) for i in (1, 9, 10)]
    listdir, rng = os.listdir, random.Random(0)
    monkeypatch.setattr(os, 'listdir', lambda p: rng.sample(x := listdir(p), len(x)))
    for _ in range(3): assert images_of(root).equals(want)


def test_splits(tmp_path):
    root = tree(
        tmp_path / 'wrap' / 'set', *(f'{s}/{c}/images/1.png' for s in ('Training', 'VALID', 'testing') for c in 'ab')
    )
    t = images_of(tmp_path/'wrap')
    assert t.split.tolist() == ['test', 'train', 'valid']*2 and t.label.tolist() == list('aaabbb')
    png(root/'scripts'/'x'/'1.png')
    with pytest.raises(ValueError, match='beside others'): images_of(root)


def test_what_is_left_out_is_said(tmp_path):
    root = tree(tmp_path/'set', 'A/1.png', 'B/1.png', 'loose.png')
    (root/'C').mkdir()
    with pytest.warns(UserWarning) as said: images_of(root)
    assert '1 image lies beside' in str(said[0].message) and 'no images in C' in str(said[1].message)


@pytest.mark.parametrize(
    'kept', ['study.json', 'run/config.json run/metrics.json', 'config.json metrics.json', 'bench.json']
)
def test_our_own_results_are_no_class(tmp_path, kept):
    "`xray_xfer study .` writes ./study, which holds pictures"
    root = tree(tmp_path/'set', 'A/1.png', 'B/1.png', 'study/run/curves.png')
    for f in kept.split(): (root/'study'/f).write_text('{}')
    with pytest.warns(UserWarning, match='study in .*results of this package'): t = images_of(root)
    assert t.label.tolist() == ['A', 'B']
    # and beside a wrapper, which is still one
    inner = tree(tmp_path/'outer', 'Radiography/A/1.png', 'Radiography/B/1.png', 'study/run/curves.png')
    for f in kept.split(): (inner/'study'/f).write_text('{}')
    assert images_of(inner).label.tolist() == ['A', 'B']


def test_columns_without_a_name(tmp_path):
    "As a spreadsheet leaves them"
    root = tree(tmp_path/'set', 'A/1.png', 'B/1.png')
    (root/'t.csv').write_text('path,label,,\nA/1.png,A,,\nB/1.png,B,x,y\n')
    assert images_of(root/'t.csv').label.tolist() == ['A', 'B']


def test_folders_without_classes(tmp_path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='no images.*Give a folder'): images_of(tmp_path/'empty')
    tree(tmp_path/'masks', 'A/masks/1.png', 'B/masks/1.png')
    with pytest.raises(ValueError, match='2 masks and no images'): images_of(tmp_path/'masks')
    tree(tmp_path/'flat', '1.png', '2.png')
    with pytest.raises(ValueError, match='2 images but no class folders'): images_of(tmp_path/'flat')
    tree(tmp_path/'one', 'COVID/images/1.png')
    with pytest.raises(ValueError, match='one class'): images_of(tmp_path/'one')


@pytest.mark.parametrize('typed', ['', '  ', 'nowhere', './no/such/where.csv', 'a\0b', '/'*3 + 'nope', 'demmo'])
def test_no_such_path(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match='Give a folder|Did you mean'): images_of(typed)


def test_near_names(tmp_path, monkeypatch):
    tree(tmp_path/'radiographs', 'A/1.png')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='Did you mean .*radiographs'): images_of('radiograph')
    with pytest.raises(FileNotFoundError, match='there is no radiograps .*Did you mean .*radiographs'):
        images_of('radiograps/A/x')
    with pytest.raises(FileNotFoundError, match='Did you mean demo'): images_of('deno')


def test_a_folder_called_demo_is_reached_by_a_dot(tmp_path, monkeypatch):
    tree(tmp_path/'demo', 'A/1.png', 'B/1.png')
    monkeypatch.chdir(tmp_path)
    assert len(images_of('./demo')) == 2 and len(images_of(Path.cwd()/'demo')) == 2


# ---- metadata sheets

def kaggle(root, sheet):
    tree(root, 'Normal/images/Normal-1.png', 'Normal/images/Normal-2.png', 'COVID/images/COVID-1.png')
    sheet.to_excel(root/'Normal.metadata.xlsx', index=False)
    return root


def test_a_sheet_matches_whatever_the_case(tmp_path):
    sheet = pd.DataFrame({'File Name ': ['NORMAL-1', 'normal-2.PNG'], 'URL': [' https://a.b \n', 'NA']})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        t = images_of(kaggle(tmp_path/'k', sheet))
    assert t.source.tolist() == [None, 'https://a.b', 'NA']


def test_a_sheet_that_does_not_match_is_said(tmp_path):
    sheet = pd.DataFrame({'FILE NAME': ['NORMAL-1', 'NORMAL-7', 'NORMAL-8'], 'URL': 'u'})
    with pytest.warns(UserWarning, match='2 of its 3 rows name no image, and 1 of 2 images have no row'):
        images_of(kaggle(tmp_path / 'k', sheet))


def test_two_sources_for_one_name_are_none(tmp_path):
    sheet = pd.DataFrame(
        {'FILE NAME': ['Normal-1', 'normal-1.png', 'Normal-2', 'NORMAL-2'], 'URL': ['u', 'v', 'w', 'w ']}
    )
    with pytest.warns(UserWarning, match='1 images have rows with different URLs, so their source is not known'):
        t = images_of(kaggle(tmp_path / 'k', sheet))
    assert t.source.tolist() == [None, None, 'w']


def test_without_openpyxl_images_have_no_source_and_one_note_says_so(tmp_path, monkeypatch):
    root = kaggle(tmp_path/'k', pd.DataFrame({'FILE NAME': ['NORMAL-1', 'NORMAL-2'], 'URL': 'u'}))
    shutil.copy(root/'Normal.metadata.xlsx', root/'COVID.metadata.xlsx')
    monkeypatch.setitem(sys.modules, 'openpyxl', None)   # as if it were not installed
    with pytest.warns(UserWarning) as said: t = images_of(root)
    assert 'source' not in t and len(t) == 3
    assert [str(w.message) for w in said] == [
        '2 metadata sheets (COVID.metadata.xlsx, Normal.metadata.xlsx) not read: that takes openpyxl, '
        "pip install 'xray_xfer[excel]'. Images go without sources"
    ]


def test_a_broken_sheet_is_named(tmp_path):
    root = kaggle(tmp_path/'k', pd.DataFrame({'FILE NAME': ['NORMAL-1'], 'LINK': 'u'}))
    with pytest.raises(
        ValueError, match='Normal.metadata.xlsx has no columns FILE NAME and URL: it has FILE NAME, LINK'
    ):
        images_of(root)
    pd.DataFrame({'FILE NAME': ['NORMAL-1', 'NORMAL-2'], 'URL': 'u'}).to_excel(root/'Normal.metadata.xlsx', index=False)
    whole, rng, failed = (root/'Normal.metadata.xlsx').read_bytes(), random.Random(0), 0
    for _ in range(60):
        broken = bytearray(whole)
        i = rng.randrange(len(broken))
        broken = broken[:i] if rng.random() < .3 else broken[:i] + rng.randbytes(20) + broken[i+20:]
        (root/'Normal.metadata.xlsx').write_bytes(broken)
        try: images_of(root)
        except ValueError as e:
            failed += 1
            assert 'Normal.metadata.xlsx' in str(e)
    assert failed > 30


# ---- zips

def zipped(path, *entries):
    with warnings.catch_warnings(), zipfile.ZipFile(path, 'w') as z:
        warnings.simplefilter('ignore')
        for name, body in entries: z.writestr(name, body)
    return path


def entry(name, mode=0):
    i = zipfile.ZipInfo(name)
    i.external_attr = mode << 16
    return i


def encrypted(path):
    "The flag set in the local and the central header"
    b = bytearray(path.read_bytes())
    for magic, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)): b[b.index(magic) + at] |= 1
    path.write_bytes(b)
    return path


BODY = b'not quite a PNG' * 50
GOOD = [('A/1.png', BODY), ('B/1.png', BODY)]


@pytest.mark.parametrize(
    'name,mode,why',
    [
        ('/etc/evil.png', 0, 'leads out'),
        ('../evil.png', 0, 'leads out'),
        ('A/../../evil.png', 0, 'leads out'),
        ('A\\..\\evil.png', 0, 'leads out'),
        ('C:/evil.png', 0, 'leads out'),
        ('c:evil.png', 0, 'leads out'),
        ('A/x\0.png', 0, 'no proper name'),
        ('A/link.png', stat.S_IFLNK | 0o777, 'is a link'),
        ('A/pipe', stat.S_IFIFO | 0o644, 'is a link'),
        ('A/1.png', 0, 'twice'),
    ],
)
def test_an_entry_that_would_escape_refuses_the_archive(tmp_path, cache, name, mode, why):
    path = zipped(tmp_path/'evil.zip', *GOOD, (entry('PLACEHOLDER' if '\0' in name else name, mode), '/etc/passwd'))
    if '\0' in name: path.write_bytes(path.read_bytes().replace(b'PLACEHOLDER', b'A/x\0.pngXYZ'))
    with pytest.raises(ValueError, match=f'is refused: its entry .*{why}'): images_of(path)
    assert not list(tmp_path.rglob('*evil.png')) and not list(cache.rglob('*'))


def test_broken_zips(tmp_path, cache):
    whole = zipped(tmp_path/'good.zip', *GOOD)
    with pytest.raises(ValueError, match='is encrypted'): images_of(encrypted(zipped(tmp_path/'locked.zip', *GOOD)))
    flipped = bytearray(whole.read_bytes())
    flipped[flipped.index(BODY) + 9] ^= 1
    for name, b in (('crc', flipped), ('cut', whole.read_bytes()[:-30]), ('none', b'hello'), ('empty', b'')):
        (tmp_path/f'{name}.zip').write_bytes(b)
        with pytest.raises(ValueError, match='is damaged or no zip'): images_of(tmp_path/f'{name}.zip')
    with pytest.raises(ValueError, match='damaged'):
        images_of(zipped(tmp_path / 'both.zip', ('A', b'file'), ('A/1.png', b'')))
    assert not [p for p in cache.rglob('*') if p.name != 'zips']
    assert len(images_of(whole)) == 2


def test_a_zip_larger_than_the_disk(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(fetch.shutil, 'disk_usage', lambda p: types.SimpleNamespace(free=100))
    with pytest.raises(OSError, match='unpacks to .* free: make room, or set XRAY_XFER_CACHE') as e:
        images_of(zipped(tmp_path / 'big.zip', *GOOD))
    assert e.value.errno == errno.ENOSPC and not cache.exists()


def test_the_disk_fills_up_while_unpacking(tmp_path, cache, monkeypatch):
    path, copy, calls = zipped(tmp_path/'good.zip', *GOOD), fetch.shutil.copyfileobj, []
    def full(src, dst, n):
        calls.append(1)
        if len(calls) == 2: raise OSError(errno.ENOSPC, 'No space left on device')
        copy(src, dst, n)
    monkeypatch.setattr(fetch.shutil, 'copyfileobj', full)
    with pytest.raises(OSError, match='No space left'): images_of(path)
    assert not (cache/'zips').exists()
    assert len(images_of(path)) == 2 and len(calls) == 4      # and all is well once there is room


def test_a_changed_zip_is_unpacked_again(tmp_path, cache):
    path = zipped(tmp_path/'good.zip', *GOOD)
    assert len(images_of(path)) == 2
    assert len(images_of(zipped(path, *GOOD, ('B/2.png', BODY)))) == 3
    assert len(os.listdir(cache/'zips')) == 2


@SOUP
@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_zip_soup(tmp_path, junk, at, keep):
    path = zipped(tmp_path/'soup.zip', *GOOD)
    b = path.read_bytes()
    path.write_bytes(b[:at] + junk + (b[at+len(junk):] if keep else b''))
    try: assert len(images_of(path)) == 2
    except ValueError as e: assert 'soup' in str(e)


# ---- CSV and DataFrame

def csv_of(tmp_path, text, encoding='utf-8'):
    (tmp_path/'t.csv').write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return images_of(tmp_path/'t.csv')


def test_labels_are_text(tmp_path):
    t = csv_of(tmp_path, 'path,label\n1,0\n2,1\n3,NA\n4,None\n5,nan\n6,1e3\n')
    assert t.label.tolist() == ['0', '1', 'NA', 'None', 'nan', '1e3'] and t.path[0] == str(tmp_path/'1')


def test_all_columns(tmp_path):
    t = csv_of(
        tmp_path,
        'age,path,label,group,mask,source,split\n7,"a, b.png",x,p1,m/1.png,S,TRAIN\n8,/abs/c.png,y,,,,Val\n',
        'utf-8-sig',
    )
    assert t.columns.tolist() == ['path', 'label', 'group', 'mask', 'source', 'split', 'age']
    assert t.iloc[0].tolist() == [str(tmp_path/'a, b.png'), 'x', 'p1', str(tmp_path/'m'/'1.png'), 'S', 'train', '7']
    assert t.iloc[1].tolist() == ['/abs/c.png', 'y', None, None, None, 'valid', '8']


@pytest.mark.parametrize(
    'text,why',
    [
        ('', 'no column path and no column label'),
        ('path,label\n', 'has no rows'),
        ('file,group\na,b\n', 'it has file, group'),
        ('path;label\na;b\n', 'separate them by commas'),
        ('path,label\na,b,c\n', 'line 2 has 3 fields'),
        ('path,label\na\n', 'line 2 has 1 fields'),
        ('path,label\na,\nb,  \nc,x\n', '2 of 3 rows .* have no label .the first is row 1'),
        ('path,label\n,x\n', 'have no path'),
        ('path,path,label\na,b,c\n', 'more than once'),
        ('path,label\na,x\nb,y\n./a,y\n', '1 paths stand more than once'),
        ('path,label,split\na,x,train\nb,y,\n', 'empty in 1 of 2'),
        ('path,label,split\na,x,dev\nb,y,dev\n', '2 rows .* unknown split .dev'),
        ('path,label\n"a,x\n', 'cannot be read as CSV'),
        ('path,label\nä,x\n'.encode('latin-1'), 'is not UTF-8'),
        ('path,label\na,x\n'.encode('utf-16'), 'is not UTF-8'),
        ('path,label\na,x\nb,x\n', 'one class, x'),
    ],
)
def test_bad_csv(tmp_path, text, why):
    with pytest.raises(ValueError, match=why): csv_of(tmp_path, text)


def test_a_frame_of_odd_types(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    df = pd.DataFrame(
        dict(path=[Path('a'), 'b', b'c\xff'], label=pd.Categorical([1, 2, 1]), group=[7, np.nan, 8]), index=[5, 5, 9]
    )
    t = images_of(df)
    assert t.label.tolist() == ['1', '2', '1']
    assert t.group.tolist() == ['7', None, '8']
    assert t.path.tolist() == [str(tmp_path / 'a'), str(tmp_path / 'b'), str(tmp_path / 'c\udcff')]
    assert isinstance(t.index, pd.RangeIndex) and images_of(t).equals(t)
    with pytest.raises(ValueError, match='1 of 2 rows of the table have no label'):
        images_of(pd.DataFrame(dict(path=['a', 'b'], label=['x', np.nan])))
    with pytest.raises(ValueError, match='has no rows'): images_of(pd.DataFrame(columns=['path', 'label']))


@SOUP
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(['path', 'label', 'split', ',', '\n', '"', 'a', 'b', '\r', '\0', 'é', ';']), max_size=40
        ).map(lambda p: ('path,label\n' + ''.join(p)).encode()),
    )
)
def test_csv_soup(tmp_path, soup):
    try: t = csv_of(tmp_path, soup)
    except ValueError as e: assert 't.csv' in str(e)
    else: assert t.label.nunique() > 1 and t.path.map(os.path.isabs).all()


# ---- kaggle and demo

def test_no_network(tmp_path):
    "The real kagglehub, every proxy a closed port of this machine"
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith(('KAGGLE', 'NO_PROXY'))}
    env |= {
        k: 'http://127.0.0.1:9'
        for k in ('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'http_proxy', 'https_proxy', 'all_proxy')
    } | dict(HOME=str(tmp_path))
    done = subprocess.run(
        [sys.executable, '-c', 'from xray_xfer.data.table import images_of; images_of("kaggle")'],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith('ConnectionError')
    assert 'kaggle.com/datasets/tawsifurrahman' in last
    assert 'KAGGLE_API_TOKEN' in last


@pytest.mark.parametrize(
    'error', [ValueError('Invalid Kaggle credentials file'), OSError('unreachable'), RuntimeError('401')]
)
def test_every_kaggle_error_says_what_to_do(monkeypatch, error):
    def dataset_download(handle): raise error
    monkeypatch.setitem(sys.modules, 'kagglehub', types.SimpleNamespace(dataset_download=dataset_download))
    with pytest.raises(ConnectionError, match='download the zip in a browser'): images_of('kaggle')


def test_a_full_disk_is_not_kaggles_fault(monkeypatch):
    def dataset_download(handle): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setitem(sys.modules, 'kagglehub', types.SimpleNamespace(dataset_download=dataset_download))
    with pytest.raises(OSError, match='No space left'): images_of('kaggle')
    monkeypatch.setitem(sys.modules, 'kagglehub', None)
    with pytest.raises(RuntimeError, match=r"pip install 'xray_xfer\[kaggle\]', or download the zip in a browser"):
        images_of('kaggle')


def test_kaggle_downloads(monkeypatch, tmp_path):
    root = tree(
        tmp_path / 'versions' / '5' / 'COVID-19_Radiography_Dataset',
        *(f'{c}/{k}/{c}-1.png' for c in ('COVID', 'Normal') for k in ('images', 'masks')),
    )
    monkeypatch.setitem(
        sys.modules, 'kagglehub', types.SimpleNamespace(dataset_download=lambda handle: str(root.parent))
    )
    t = images_of('kaggle')
    assert names(t) == ['COVID/images/COVID-1.png', 'Normal/images/Normal-1.png'] and t['mask'].notna().all()


def fake_demo(monkeypatch, draw, file):
    fake = types.ModuleType('xray_xfer.data.demo')
    fake.draw, fake.__file__ = draw, str(file)
    monkeypatch.setitem(sys.modules, 'xray_xfer.data.demo', fake)
    import xray_xfer.data
    monkeypatch.setattr(xray_xfer.data, 'demo', fake, raising=False)


def test_the_demo_is_drawn_once_and_never_half(monkeypatch, cache, tmp_path):
    calls = []
    def draw(path, n=400, seed=0, size=256):
        tree(Path(path), 'A/1.png')
        calls.append(seed)
        if len(calls) == 1: raise KeyboardInterrupt
        tree(Path(path), 'B/1.png')
    code = tmp_path/'demo.py'
    code.write_text('one')
    fake_demo(monkeypatch, draw, code)
    with pytest.raises(KeyboardInterrupt): images_of('demo', seed=3)
    assert not cache.exists() or os.listdir(cache) == []
    assert len(images_of('demo', seed=3)) == len(images_of('demo', seed=3)) == 2 and calls == [3, 3]
    code.write_text('two')
    assert len(images_of('demo', seed=3)) == 2 and len(os.listdir(cache)) == 2     # another drawing is another demo
