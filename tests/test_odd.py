"What the page of `odd` cannot say: nothing but blank images, one image per class, colour, frames, no chest films."
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xray_xfer.data.demo import CLASSES, phantom
from xray_xfer.data.odd import blank, coarse, describe, find_odd
from xray_xfer.data.packing import pack

pytestmark = pytest.mark.filterwarnings('error')   # a division by zero, a byte that overflows
SEED = 3
DRAWN = [phantom(c, np.random.default_rng([SEED, k, i]), 64) for k, c in enumerate(CLASSES) for i in range(12)]
FILMS, MASKS = (np.stack(a) for a in zip(*DRAWN))
LABELS = np.repeat(list(CLASSES), 12)


def packed(folder, images, labels=None, size=64, resize='squish', colour=False):
    "A pack of arrays or PIL images, saved as PNG"
    folder.mkdir(exist_ok=True)
    images = [im if isinstance(im, Image.Image) else Image.fromarray(im) for im in images]
    for i, im in enumerate(images): im.save(folder/f'{i:03}.png', compress_level=1)
    paths = [str(folder/f'{i:03}.png') for i in range(len(images))]
    table = pd.DataFrame(dict(path=paths, label=['a']*len(images) if labels is None else labels))
    return pack(table, size, resize, colour, cache=folder/'cache', quiet=True)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "48 drawn films of four classes, as they are"
    return packed(tmp_path_factory.mktemp('films'), FILMS, LABELS)


def of(plain, pixels, labels=None):
    "What is found in other pixels, and what is said of them"
    n = len(pixels)
    table = pd.DataFrame(dict(path=[f'/x/{i:03}.png' for i in range(n)], label=['a']*n if labels is None else labels))
    odd = find_odd(replace(plain, pixels=pixels, table=table, size=pixels.shape[-1]), quiet=True)
    return odd, describe(odd)


def inverted(wrong, films=FILMS): return np.where(np.asarray(wrong)[:, None, None], ~films, films)


def clouds(n, draw=0):
    "Smooth random pictures"
    rng = np.random.default_rng([SEED, n, draw])
    small = [Image.fromarray(a) for a in rng.integers(0, 256, (n, 5, 5), np.uint8)]
    return np.stack([np.asarray(im.resize((64, 64), Image.Resampling.BICUBIC)) for im in small])


def named(odd, what='inverted'): return odd.images.index[odd.images.what == what].tolist()


def test_films_as_they_are(plain):
    odd = find_odd(plain, quiet=True)
    assert len(odd.images) == 0 and list(odd.images.columns) == ['path', 'label', 'what'] and odd.names == []
    assert odd.classes.to_dict('list') == dict(images=[12]*4, judged=[12]*4, opposite=[0]*4)
    assert describe(odd) == ['odd: no image is blank, and none is inverted']


@pytest.mark.parametrize('level, what', [(0, 'black'), (5, 'black'), (255, 'white'), (128, 'grey')])
def test_a_set_of_one_level(plain, level, what):
    odd, lines = of(plain, np.full((6, 64, 64), level, np.uint8), list('aaabbb'))
    assert odd.images.what.tolist() == [what]*6 and odd.classes.judged.tolist() == [0, 0]
    assert len(lines) == 1 and lines[0].startswith('odd: 6 images are ') and '3 of a, 3 of b' in lines[0]


def test_one_class_is_blank_and_the_others_are_inverted(plain):
    pixels = ~FILMS
    pixels[:12] = 0
    odd, lines = of(plain, pixels, LABELS)
    assert named(odd, 'black') == list(range(12)) and named(odd) == list(range(12, 48))
    assert lines[-1].startswith('  All classes are')
    assert not any('0 of 0' in line or 'alone tells' in line for line in lines)


def test_a_set_of_masks(plain):
    odd, lines = of(plain, MASKS, LABELS)
    assert odd.images.what.tolist() == ['two levels']*48 and 'mask' in lines[0] and len(lines) == 1


def test_a_mask_among_films(tmp_path):
    "Made smaller its edges blur, and a JPEG has ripples: the file is asked"
    mask = phantom('Normal', np.random.default_rng(0), 256)[1]
    table = pd.DataFrame(dict(path=[str(tmp_path/f'mask.{kind}') for kind in ('png', 'jpg')], label='a'))
    for path in table.path: Image.fromarray(mask).save(path)
    p = pack(table, 48, cache=tmp_path/'cache', quiet=True)
    assert [blank(a) for a in p.pixels] == ['', '']
    assert find_odd(p, quiet=True).images.what.tolist() == ['two levels']*2


def test_an_underexposed_film_is_not_blank():
    "All of it lies within a dozen levels; nor does a letter at full white make two levels of it"
    for film in FILMS[:12]//20:
        assert blank(film) == '' and coarse(film) is not None
        film[4:12, 4:7] = 255
        assert blank(film) == ''


def test_a_letter_does_not_make_a_film(tmp_path):
    a = np.zeros((300, 260), np.uint8)
    a[10:30, 10:14] = a[26:30, 10:22] = 255
    Image.fromarray(a).save(tmp_path/'letter.jpg', quality=70)      # with ripples around the letter
    Image.new('L', (100, 100), 130).save(tmp_path/'even.jpg', quality=30)
    table = pd.DataFrame(dict(path=[str(tmp_path/f) for f in ('letter.jpg', 'even.jpg')], label='a'))
    for resize in ('squish', 'pad'):
        p = pack(table, 64, resize, cache=tmp_path/'cache', quiet=True)
        assert find_odd(p, quiet=True).images.what.tolist() == ['black', 'grey']


def test_transparent(tmp_path):
    "In each mode that can be; half of it transparent, or only dark, is no such thing"
    grey = Image.fromarray(FILMS[0])
    rgba, la, half = grey.convert('RGBA'), grey.convert('LA'), grey.convert('RGBA')
    rgba.putalpha(0)
    la.putalpha(0)
    half.putalpha(Image.fromarray(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8)[None].repeat(64, 0)))
    palette = Image.new('P', (64, 64), 0)
    palette.info['transparency'] = bytes([0])
    dark = Image.new('RGBA', (64, 64), (0, 0, 0, 255))
    for colour in (False, True):
        p = packed(tmp_path/str(colour), [rgba, la, palette, half, dark, *FILMS[:12]], colour=colour)
        assert find_odd(p, quiet=True).images.what.to_dict() == dict.fromkeys((0, 1, 2), 'transparent') | {4: 'black'}
    (tmp_path/'False'/'000.png').unlink()     # gone since it was packed
    gone = pd.DataFrame(dict(path=[str(tmp_path/'False'/'000.png')], label='a'))
    p = replace(packed(tmp_path/'again', [rgba]), table=gone)
    assert find_odd(p, quiet=True).images.what.tolist() == ['black']


def test_padding_is_no_second_level(tmp_path):
    wide = [Image.new('L', (90, 40), v) for v in (0, 255, 128)] + [Image.fromarray(MASKS[0]).resize((90, 40), 0)]
    odd = find_odd(packed(tmp_path, wide, resize='pad'), quiet=True)
    assert odd.images.what.tolist() == ['black', 'white', 'grey', 'two levels']


WRONG = {'one': np.arange(48) == 5, 'a fifth': np.arange(48) % 5 == 0, 'half': np.arange(48) % 2 == 0,
         'a class': LABELS == 'COVID', 'two classes': np.isin(LABELS, ['COVID', 'Normal']),
         'all but one': np.arange(48) > 0, 'all': np.ones(48, bool)}

@pytest.mark.parametrize('wrong', WRONG.values(), ids=WRONG)
def test_inverted(plain, wrong):
    rng = np.random.default_rng(SEED)
    contrast, brightness = rng.uniform(.5, 1.3, (48, 1, 1)), rng.uniform(-20, 20, (48, 1, 1))
    pixels = ((inverted(wrong) - 128.)*contrast + 128 + brightness).clip(0, 255).astype(np.uint8)
    odd, lines = of(plain, pixels, LABELS)
    assert named(odd) == np.flatnonzero(wrong).tolist() and odd.classes.opposite.sum() == wrong.sum()
    mostly = [c for c in CLASSES if wrong[LABELS == c].mean() > .5]
    assert [c for c in CLASSES if any(f'{c} is mostly inverted' in line for line in lines)] == mostly
    assert lines[-1].startswith('  All classes are') == (len(mostly) == 4)


@pytest.mark.parametrize('n', [1, 2, 3])
def test_few_images(plain, n):
    for wrong in np.ndindex(*[2]*n):
        wrong = np.array(wrong, bool)
        odd, _ = of(plain, inverted(wrong, FILMS[:n]), list('abc')[:n])
        assert named(odd) == np.flatnonzero(wrong).tolist()


def test_one_image_per_class(plain):
    odd, lines = of(plain, inverted(np.arange(48) % 7 == 0), [f'patient {i:02}' for i in range(48)])
    assert named(odd) == list(range(0, 48, 7)) and len(odd.classes) == 48 and len(lines) == 7


def test_a_small_class_beside_a_large_one(plain):
    pixels = np.concatenate([np.repeat(FILMS[:12], 30, 0), ~FILMS[-3:]])
    assert named(of(plain, pixels, ['a']*360 + ['b']*3)[0]) == [360, 361, 362]


def test_colour(tmp_path):
    tints = [np.stack([a, a//2, a//3], -1) for a in inverted(np.arange(48) < 6)]
    odd = find_odd(packed(tmp_path, tints, LABELS, colour=True), quiet=True)
    assert named(odd) == list(range(6)) and odd.classes.judged.tolist() == [12]*4


@pytest.mark.parametrize('frame', [0, 90, 255])
def test_frames(plain, frame):
    "A frame is not inverted with its film, or it is: the film counts"
    wide = np.full((48, 100, 100), frame, np.uint8)
    wide[:, 12:76, 24:88] = inverted(np.arange(48) % 6 == 0)
    assert named(of(plain, wide, LABELS)[0]) == list(range(0, 48, 6))


def test_blocks_and_large_images(plain):
    "More images than a block holds, at a size of which every second pixel is enough"
    large = inverted(np.arange(20) == 18, FILMS[:20]).repeat(8, 1).repeat(8, 2)
    large[3], large[19] = 0, 255
    odd, _ = of(plain, large)
    assert odd.images.what.to_dict() == {3: 'black', 18: 'inverted', 19: 'white'}


def test_tiny_images(plain):
    tiny = FILMS.reshape(48, 8, 8, 8, 8).mean((2, 4)).astype(np.uint8)
    assert named(of(plain, inverted(np.arange(48) < 4, tiny), LABELS)[0]) == [0, 1, 2, 3]


def test_cut_out_lungs_are_not_inverted(plain):
    "Their lungs are bright on black: no set, no class and no image of these is called inverted"
    cut = np.where(MASKS > 127, FILMS, 0).astype(np.uint8)
    odd, lines = of(plain, cut, LABELS)
    assert len(odd.images) == 0 and odd.classes.judged.sum() == 0 and 'cannot be told' in lines[0]
    odd, lines = of(plain, np.where((LABELS == 'COVID')[:, None, None], cut, FILMS), LABELS)
    assert len(odd.images) == 0 and odd.classes.judged['COVID'] == 0 and '12 images' in lines[-1]


@pytest.mark.parametrize('turn', [1, 3])
def test_films_on_their_side(plain, turn):
    "Their anatomy is not where it is sought: what is the reverse of most is said, and no more"
    films = np.concatenate([np.rot90(FILMS, turn, (1, 2))]*2)
    labels = np.tile(LABELS, 2)
    for wrong in (np.arange(96) % 9 == 0, labels == 'COVID'):
        odd, lines = of(plain, inverted(wrong, films), labels)
        assert odd.basis == 'most' and named(odd, 'reversed') == np.flatnonzero(wrong).tolist() and not named(odd)
        assert any('COVID is mostly the reverse' in line for line in lines) == wrong[labels == 'COVID'].all()
    odd, lines = of(plain, ~films, labels)
    assert odd.images.empty and lines[0] == 'odd: no image is blank, and none is the reverse of most'
    assert 'could not be seen' in lines[1]


def test_no_chest_films(plain):
    "Smooth random pictures, a gradient this way and that: nothing is said of their grey"
    y, x = np.mgrid[:64, :64]
    angles = np.linspace(0, 6.28, 60)[:, None, None]
    ramps = (128 + 1.3*(np.cos(angles)*(x - 32) + np.sin(angles)*(y - 32))).astype(np.uint8)
    for pictures in (clouds(60), ramps, np.random.default_rng(SEED).integers(0, 256, (60, 64, 64), np.uint8)):
        odd, lines = of(plain, pictures, list('ab')*30)
        assert odd.basis == 'nothing' and len(odd.images) == 0 and len(lines) == 1 and 'cannot be told' in lines[0]


def test_few_pictures_are_alike_by_chance(plain):
    for n in (8, 20):
        for draw in range(40): assert of(plain, clouds(n, draw))[0].basis != 'most'


def test_chest_films_among_other_pictures(plain):
    "A quarter of the set: what they have in common is not what the set has in common"
    odd, _ = of(plain, np.concatenate([FILMS[:20], clouds(60)]))
    assert odd.basis == 'nothing' and len(odd.images) == 0


def test_brightness_that_falls_off_is_not_inversion(plain):
    "Pictures that are bright where a belly should be dark, or the other way round, and show nothing else"
    y, x = (np.mgrid[:64, :64] - 31.5)/32
    far = np.hypot(x, y) - .5
    others = np.stack([128 + 100*a for a in (y, -y, x, -x, far, -far)]).clip(0, 255).astype(np.uint8)
    assert of(plain, np.concatenate([FILMS, others]))[0].images.empty


def test_a_film_that_is_not_frontal_is_not_inverted(plain):
    "Among ordinary films: turned, or the upper half of it"
    for other in (np.rot90(FILMS, 1, (1, 2)), np.rot90(FILMS, 2, (1, 2)), FILMS[:, :32].repeat(2, 1)):
        assert len(of(plain, np.concatenate([FILMS, other[::5]]), [*LABELS, *LABELS[::5]])[0].images) == 0


def test_sentences(plain):
    pixels = inverted(np.arange(48) < 5)
    pixels[20] = 0
    odd, lines = of(plain, pixels, LABELS)
    label, other = LABELS[0], LABELS[20]
    assert lines[0].startswith(f'odd: 1 image is wholly black (1 of {other}: 020.png): nothing can be learnt')
    assert lines[1].startswith(f'  5 of 12 images of {label} are inverted (')
    assert '): 000.png, 001.png, 002.png and 2 more. ' in lines[1]
    assert len(lines) == 2 and '004.png' in describe(odd, most=5)[1]


def test_light():
    "The room needs no torch"
    code = "import sys, xray_xfer.data.odd; sys.exit('torch' in sys.modules or 'fastai' in sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)
