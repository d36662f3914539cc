"""What the page of `known` cannot say: sizes, flat and black images, damaged files, crowds, colour, odd names."""
import subprocess, sys

import numpy as np
import pytest
from PIL import Image

from xray_xfer.data.demo import phantom
from xray_xfer.inference.known import Known, Match, TWIN

people = np.stack([phantom(c, np.random.default_rng((3, i)), 224)[0] for i, c in enumerate(['Normal', 'COVID']*3)])

def of(images, **kwargs):
    n = len(images)
    return Known.of(images, kwargs.get('paths', [f'{i}.png' for i in range(n)]), kwargs.get('parts', ['train']*n))
def resized(images, size): return np.stack([np.asarray(Image.fromarray(a).resize((size, size))) for a in images])
def brighter(a): return (a*.7 + 60).astype(np.uint8)

@pytest.mark.parametrize('size', [40, 63, 64, 112, 224, 300])
def test_twins_are_known_at_every_size_that_has_signatures(size):
    images = resized(people, size)
    run = of(images)
    assert run.knows_twins and len(run) == 6
    found = run.find(np.stack([images[2], *map(brighter, images[3:5]), 255 - images[5]]))
    assert [(m.kind, m.row) for m in found] == [('same', 2), ('twin', 3), ('twin', 4), ('twin', 5)]
    with pytest.raises(ValueError, match=f'images of {size + 1} pixels a side.*pack them with size={size}'):
        run.find(resized(people, size + 1))

@pytest.mark.parametrize('size', [1, 8, 39])
def test_of_very_small_images_only_the_same_is_known(tmp_path, size):
    images = resized(people, size)
    of(images).save(tmp_path/'k.safetensors')
    run = Known.load(tmp_path/'k.safetensors')
    assert not run.knows_twins
    found = run.find(np.stack([images[1], np.full((size, size), 77, np.uint8)]))
    assert found[0].kind == 'same' and found[1] is None

def test_flat_images_are_the_same_or_nothing():
    flat = np.stack([np.full((64, 64), g, np.uint8) for g in (0, 9, 255)])
    run = of(np.concatenate([flat, resized(people, 64)]))
    new = np.stack([flat[0], flat[1] + 1, flat[2], np.eye(64, dtype=np.uint8)*255])
    assert [m and m.row for m in run.find(new)] == [0, None, 2, None]

def test_of_many_the_training_image_is_named_first():
    crowd = np.concatenate([people[[0]*12], people[1:]])
    run = of(crowd, parts=['test']*11 + ['train'] + ['valid']*5)
    same, twin = run.find(np.stack([people[0], brighter(people[0])]))
    assert (same.kind, same.part, same.row) == ('same', 'train', 11)
    assert (twin.kind, twin.part, twin.row) == ('twin', 'train', 11)   # though only eight of the twelve are compared
    assert twin.likeness > TWIN and isinstance(same, Match)

def test_the_order_of_the_new_images_and_their_number_do_not_matter():
    run = of(people)
    new = np.stack([*map(brighter, people), *people[::-1, :, ::-1]])
    alone = [run.find(a[None])[0] for a in new]
    assert run.find(new) == alone and run.find(new[::-1]) == alone[::-1]
    many = run.find(np.concatenate([new]*25))
    assert many == alone*25

def test_a_run_without_images_knows_none():
    none = Known.of(np.zeros((0, 64, 64), np.uint8), [], [])
    assert len(none) == 0 and none.find(resized(people, 64)) == [None]*6

@pytest.mark.parametrize('wrong', [np.zeros((2, 3, 64, 64), np.uint8), np.zeros((64, 64), np.uint8),
                                   np.zeros((2, 64, 60), np.uint8), np.zeros((2, 64, 64), np.float32)])
def test_what_are_no_grey_squares_is_refused(wrong):
    for ask in (of(resized(people, 64)).find, lambda a: Known.of(a, ['a']*2, ['train']*2)):
        with pytest.raises(ValueError, match='give grey images as uint8'): ask(wrong)

def test_memory_mapped_and_strided_pixels_do(tmp_path):
    np.save(tmp_path/'p.npy', people)
    run = of(np.load(tmp_path/'p.npy', mmap_mode='r'))
    assert [m.kind for m in run.find(np.asfortranarray(people))] == ['same']*6

@pytest.mark.parametrize('damage', [lambda b: b[:-1], lambda b: b'', lambda b: b.replace(b'0.png', b'9.png'),
                                    lambda b: b[:-5] + b'\7'*5])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = tmp_path/'known.safetensors'
    of(people).save(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match='known.safetensors.*damaged'): Known.load(file)

def test_an_older_run_has_no_file_and_names_survive(tmp_path):
    assert Known.load(tmp_path/'known.safetensors') is None
    names = ['Ärzte/ß "1".png', '肺.png', 'a\nb.png', r'\xff.png', 'NA', '']
    of(people, paths=names, parts=['train', 'valid', 'test']*2).save(tmp_path/'known.safetensors')
    run = Known.load(tmp_path/'known.safetensors')
    assert [(m.path, m.part) for m in run.find(people)] == list(zip(names, ['train', 'valid', 'test']*2))

def test_a_file_is_small(tmp_path):
    of(people, paths=['x'*40]*6).save(tmp_path/'k.safetensors')
    assert (tmp_path/'k.safetensors').stat().st_size < 6*1100 + 1000

def test_asking_is_light(tmp_path):
    of(people).save(tmp_path/'k.safetensors')
    code = ('import sys, numpy as np; from xray_xfer.inference.known import Known; '
            f'k = Known.load({str(tmp_path/"k.safetensors")!r}); print(k.find(np.zeros((1, 224, 224), np.uint8)), '
            '*sorted({"torch", "sklearn", "timm", "fastai"} & set(sys.modules)))')
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split() == ['[None]']

@pytest.mark.shared
def test_films_of_another_hospital_are_strangers(shared):
    from xray_xfer.data.packing import pack
    from xray_xfer.data.table import images_of
    films = pack(images_of(shared/'radiographs'), 64, quiet=True)
    run = of(films.pixels[:600])
    import pandas as pd
    files = sorted(map(str, (shared/'external'/'images').iterdir()))
    elsewhere = pack(pd.DataFrame(dict(path=files, label='x')), 64, quiet=True).pixels
    assert run.find(elsewhere) == [None]*len(files)
    assert [m.row for m in run.find(films.pixels[:600:60])] == list(range(0, 600, 60))
