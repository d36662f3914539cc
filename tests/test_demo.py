"What the page of `demo` cannot say: hostile arguments, failures halfway, and properties over many seeds."
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xray_xfer.data import demo
from xray_xfer.data.demo import CLASSES, counts, draw, phantom


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


@given(st.integers(12, 30_000))
def test_counts_add_up_and_no_class_starves(n):
    c = counts(n)
    assert tuple(c) == CLASSES and sum(c.values()) == n
    assert all(type(v) is int and v >= max(3, n/8) for v in c.values())
    assert c['Normal'] >= max(c.values()) or n < 40   # rounding and floors decide the smallest ones


@pytest.mark.parametrize('n', [11, 0, -400, 12.0, '400', True, None, float('nan')])
def test_too_few_or_no_number_leaves_nothing(tmp_path, n):
    with pytest.raises(ValueError, match='try n=400'): draw(tmp_path/'demo', n=n)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(seed=-1),
        dict(seed=0.5),
        dict(seed=None),
        dict(size=63),
        dict(size=1025),
        dict(size=256.0),
        dict(size='256'),
    ],
)
def test_bad_seed_or_size_leaves_nothing(tmp_path, kwargs):
    with pytest.raises(ValueError, match='; try '): draw(tmp_path/'demo', n=12, **kwargs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('label', ['normal', '', None, 2, 'Tuberculosis', ['Normal']])
def test_unknown_label_is_answered_with_the_known_ones(label):
    with pytest.raises(ValueError, match="'COVID', 'Lung_Opacity', 'Normal', 'Viral Pneumonia'"):
        phantom(label, np.random.default_rng(0))


def test_same_seed_same_bytes_other_seed_other_patients(tmp_path):
    a, b, c = (contents(draw(tmp_path/name, n=12, seed=s, size=96)) for name, s in (('a', 7), ('b', 7), ('c', 8)))
    assert a == b and a.keys() == c.keys()
    assert not any(a[k] == c[k] for k in a)
    assert len(set(a.values())) == len(a)   # no patient twice


def test_any_alphabet_missing_parents_and_an_empty_folder(tmp_path, monkeypatch):
    assert len(contents(draw(tmp_path/'грудь'/'胸部 ð', n=12, size=64))) == 24
    (tmp_path/'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(contents(draw('empty', n=12, size=64))) == 24
    # as public as any other folder
    assert draw('empty2', n=12, size=64).stat().st_mode == (tmp_path/'грудь').stat().st_mode
    assert sorted(os.listdir()) == ['empty', 'empty2', 'грудь']


def test_what_is_there_is_never_touched(tmp_path):
    (tmp_path/'file').write_text('mine')
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'note.txt').write_text('mine')
    (tmp_path/'link').symlink_to(tmp_path/'nowhere')
    before = contents(tmp_path)
    for name in ('file', 'full', 'link'):
        with pytest.raises(FileExistsError, match='name a new folder'): draw(tmp_path/name, n=12)
    with pytest.raises(OSError, match='where you may write'): draw(tmp_path/'file'/'demo', n=12)
    assert contents(tmp_path) == before and sorted(os.listdir(tmp_path)) == ['file', 'full', 'link']


def failing(monkeypatch, nth, error):
    "The `nth` file written fails halfway."
    real, seen = demo._write, []
    def write(path, array, note):
        seen.append(path)
        if len(seen) == nth:
            path.write_bytes(b'\x89PNG half')
            raise error
        real(path, array, note)
    monkeypatch.setattr(demo, '_write', write)
    return seen


@pytest.mark.parametrize('nth', [1, 2, 24])
@pytest.mark.parametrize('there', [False, True])
def test_a_full_disk_leaves_nothing_half_drawn(tmp_path, monkeypatch, nth, there):
    if there: (tmp_path/'demo').mkdir()
    seen = failing(monkeypatch, nth, OSError(errno.ENOSPC, 'No space left on device'))
    with pytest.raises(OSError, match='No space left on device.*a disk with room') as e:
        draw(tmp_path / 'demo', n=12, size=64)
    assert e.value.errno == errno.ENOSPC and len(seen) == nth
    assert os.listdir(tmp_path) == ['demo']*there and not contents(tmp_path)


def test_ctrl_c_leaves_nothing_and_stays_ctrl_c(tmp_path, monkeypatch):
    failing(monkeypatch, 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt): draw(tmp_path/'demo', n=12, size=64)
    assert not os.listdir(tmp_path)


def test_a_refused_folder_is_a_permission_error(tmp_path, monkeypatch):
    def refuse(**kwargs): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(demo.tempfile, 'mkdtemp', refuse)   # chmod would not stop root
    with pytest.raises(PermissionError, match='Permission denied.*where you may write'): draw(tmp_path/'demo', n=12)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CLASSES), st.integers(0, 2**32))
def test_every_patient_has_two_lungs_darker_than_the_rest(label, seed):
    image, mask = phantom(label, np.random.default_rng(seed), 96)
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == mask.shape == (96, 96)
    assert set(np.unique(mask)) == {0, 255}
    lung = mask > 0
    assert .1 < lung[:, :48].mean() < .6 and .1 < lung[:, 48:].mean() < .6
    assert np.median(image[lung]) < np.median(image[~lung])
    assert ((image > 0) & (image < 255))[lung].mean() > .95   # neither black nor burnt out where it matters


def test_the_anatomy_does_not_depend_on_the_size():
    small, large = (phantom('Lung_Opacity', np.random.default_rng(4), s)[1] > 0 for s in (128, 384))
    large = np.asarray(Image.fromarray(large).resize((128, 128), Image.Resampling.NEAREST))
    assert (small == large).mean() > .98


def test_the_shade_of_the_lungs_does_not_give_the_class_away():
    def shade(label, i):
        image, mask = phantom(label, np.random.default_rng([9, i]), 96)
        return image[mask > 0].mean()
    by_class = np.array([[shade(c, i) for i in range(25)] for c in CLASSES])
    assert np.ptp(by_class.mean(1)) < 2*by_class.std(1).mean()


def test_drawing_needs_neither_torch_nor_the_rest_of_the_house():
    code = (
        "import sys, xray_xfer.data.demo; print(*sorted(m for m in sys.modules "
        "if m.split('.')[0] in ('torch', 'fastai', 'timm', 'pandas', 'xray_xfer')))"
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert out == ['xray_xfer', 'xray_xfer.data', 'xray_xfer.data.demo']
