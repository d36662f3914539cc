"Files that lie, disks that fill up, processes that are killed: a pack is whole or it is not there."
import errno
import io
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import time
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

import xray_xfer.data.decode as decoding
import xray_xfer.data.dicomfile as dicomfile
import xray_xfer.data.packfile as module
from xray_xfer.data.depths import Deep, Depths, Held, held
from xray_xfer.data.decode import decode, fit
from xray_xfer.data.packing import pack

SOUP = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
XRAY = (np.hypot(*np.mgrid[-1:1:48j, -1:1:40j])*180).clip(0, 255).astype(np.uint8)

picture = module.read_picture   # some tests put another in its place


def image(path, value=0, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.roll(np.resize(XRAY, size), value)).save(path)
    return str(path)


@pytest.fixture
def table(tmp_path):
    return pd.DataFrame(dict(path=[image(tmp_path/'set'/f'{i}.png', i) for i in range(40)], label=list('ab')*20))


@pytest.fixture
def packed(table, tmp_path):
    def run(t=table, **kw): return pack(t, **dict(size=16, cache=tmp_path/'cache', quiet=True) | kw)
    run.folder = tmp_path/'cache'/'packs'
    return run


def left(folder): return sorted(os.listdir(folder)) if folder.exists() else []


def saved(im, fmt='PNG', **kw):
    b = io.BytesIO()
    im.save(b, fmt, **kw)
    return b.getvalue()


def png(rows, depth, colour, w, h, **chunks):
    "A PNG written by hand: Pillow writes no 2-bit and no 16-bit colour files"
    chunk = lambda k, d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    more = b''.join(chunk(k.encode(), v) for k, v in chunks.items())
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, 0)) + more
            + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows))) + chunk(b'IEND', b''))


def level(tmp_path, b, size=8):
    (tmp_path/'x').write_bytes(b)
    a = decode(tmp_path/'x', size)
    assert not isinstance(a, str), a
    return a


# ---- modes and depths

@pytest.mark.parametrize('depth,colour,row,want', [
    (1, 0, b'\xff', 255),
    (2, 0, b'\xaa\xaa', 170),
    (4, 0, b'\x88'*4, 136),
    (8, 0, b'\x80'*8, 128),
    (16, 0, b'\x80\x00'*8, 128),
    (16, 0, b'\x08\x00'*8, 128),
    (16, 0, b'\xff\xff'*8, 255),
    (16, 2, b'\x80\x80'*24, 128),
    (16, 4, b'\x80\x80\xff\xff'*8, 128),
    (16, 4, b'\x80\x80\x00\x00'*8, 0),
    (16, 6, (b'\x80\x80'*3 + b'\xff\xff')*8, 128),
    (8, 2, b'\xff\0\0'*8, 76),
    (8, 2, b'\0\xff\0'*8, 150),
    (8, 2, b'\0\0\xff'*8, 29),
    (8, 6, b'\xc8\xc8\xc8\x80'*8, 100),
    (8, 4, b'\xc8\x80'*8, 100),
])
def test_png_of_every_depth(tmp_path, depth, colour, row, want):
    a = level(tmp_path, png([row]*8, depth, colour, 8, 8))
    assert a.dtype == np.uint8 and a.shape == (8, 8) and abs(a.astype(int) - want).max() <= 1


@pytest.mark.parametrize('depth,colour,row,trns', [
    (8, 0, b'\xc8'*8, b'\0\xc8'),
    (16, 0, b'\x12\x34'*8, b'\x12\x34'),
    (8, 2, b'\xc8'*24, b'\0\xc8'*3),
])
def test_a_transparent_colour_is_black(tmp_path, depth, colour, row, trns):
    assert level(tmp_path, png([row]*8, depth, colour, 8, 8)).min() > 0
    assert level(tmp_path, png([row]*8, depth, colour, 8, 8, tRNS=trns)).max() == 0


@pytest.mark.parametrize('mode,fmt', [
    ('1', 'PNG'), ('L', 'PNG'), ('LA', 'PNG'), ('P', 'PNG'), ('RGB', 'PNG'), ('RGBA', 'PNG'), ('I;16', 'PNG'),
    ('L', 'JPEG'), ('RGB', 'JPEG'), ('CMYK', 'JPEG'), ('YCbCr', 'JPEG')])
@pytest.mark.parametrize('exif', [None, 1, 3, 6, 8, 0, 9, 4000])
def test_modes_and_orientations(tmp_path, mode, fmt, exif):
    im = Image.fromarray(XRAY)
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(exif)
    if turn is not None: im = im.transpose(turn)
    im = Image.fromarray(np.asarray(im).astype(np.uint16)*257) if mode == 'I;16' else im.convert(mode)
    e = Image.Exif()
    if exif is not None: e[0x0112] = exif
    (tmp_path/'x').write_bytes(saved(im, fmt, exif=e, **(dict(quality=98) if fmt == 'JPEG' else {})))
    want = fit(Image.fromarray(XRAY), 32, 'pad').astype(int)
    got = decode(tmp_path/'x', 32, 'pad')
    assert abs(got - want).mean() < (40 if mode == '1' else 4)     # a 1-bit image is a dither pattern


@pytest.mark.parametrize('resize', ['squish', 'pad'])
@pytest.mark.parametrize('w,h', [(1, 1), (1, 3000), (3000, 1), (7, 8), (8, 8), (9, 31), (65535, 2)])
def test_any_aspect(w, h, resize):
    a = fit(Image.new('L', (w, h), 77), 9, resize)
    assert a.shape == (9, 9) and set(np.unique(a)) <= {0, 77} and (a == 77).any()
    assert (resize == 'pad' or (a == 77).all())


def test_pad_is_centred():
    a = fit(Image.new('L', (100, 50), 255), 10, 'pad')
    assert (a[:2] == 0).all() and (a[-3:] == 0).all() and (a[3:7] == 255).all()


# ---- 16 bits

def filtered(rows, bpp):
    "Rows of bytes under all five filters of a PNG in turn"
    h, n = rows.shape
    a = rows.astype(int)
    left, up = np.pad(a, ((0, 0), (bpp, 0)))[:, :n], np.pad(a, ((1, 0), (0, 0)))[:h]
    corner = np.pad(left, ((1, 0), (0, 0)))[:h]
    guess = left + up - corner
    far = abs(guess - left), abs(guess - up), abs(guess - corner)
    paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
    predicted = 0*a, left, up, (left + up)//2, paeth
    return b''.join(bytes([y % 5]) + ((a[y] - predicted[y % 5][y]) % 256).astype(np.uint8).tobytes() for y in range(h))


ADAM7 = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)


def deep_png(values, colour, interlaced=False, **chunks):
    "A 16-bit PNG of (h, w, channels), as Pillow writes none in colour"
    chunk = lambda k, d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    h, w, channels = values.shape
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    parts = [np.ascontiguousarray(values[y::dy, x::dx].astype('>u2')) for x, y, dx, dy in passes]
    data = b''.join(filtered(p.view(np.uint8).reshape(len(p), -1), 2*channels) for p in parts if p.size)
    more = b''.join(chunk(k.encode(), v) for k, v in chunks.items())
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, colour, 0, 0, interlaced)) + more
            + chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b''))


GREY, RGB, LA, RGBA = 0, 2, 4, 6
KINDS = {'grey': GREY, 'RGB': RGB, 'LA': LA, 'RGBA': RGBA}


def in_kind(grey, colour, opaque=65535):
    "Grey values as (h, w, channels) of a PNG's colour type"
    planes = [grey]*(3 if colour in (RGB, RGBA) else 1) + [np.full_like(grey, opaque)]*(colour in (LA, RGBA))
    return np.stack(planes, -1)


def held_in(bits, film=XRAY): return (film/255*(2**bits - 1)).round().astype(int)


def differs(tmp_path, b, want, colour=False, read_as=None, size=32):
    "How far a file is off the 8-bit picture, in grey levels"
    (tmp_path/'x').write_bytes(b)
    a = decode(tmp_path/'x', size, 'squish', colour, read_as)
    assert not isinstance(a, str), a
    return abs(a.astype(int) - fit(Image.fromarray(want), size)).max()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('bits', range(8, 17))
def test_every_depth_in_every_kind(tmp_path, bits, kind):
    "The same film in 8-bit grey and in 16-bit anything"
    for interlaced in (False, True):
        b = deep_png(in_kind(held_in(bits), KINDS[kind]), KINDS[kind], interlaced)
        assert differs(tmp_path, b, XRAY) <= 1
        assert differs(tmp_path, b, XRAY, colour=True) <= 1


@pytest.mark.parametrize('kind', KINDS)
def test_a_film_stretched_to_16_bits(tmp_path, kind):
    # 255 x 256 is short of 65,535
    for values, white in ((XRAY.astype(int)*257, 255), (held_in(12)*16, 255), (XRAY.astype(int)*256, 254)):
        want = (XRAY*(white/255)).round().astype(np.uint8)
        assert differs(tmp_path, deep_png(in_kind(values, KINDS[kind]), KINDS[kind]), want) <= 1


def test_a_hue_of_16_bits(tmp_path):
    hue = np.stack([XRAY, XRAY//2, XRAY[::-1]], -1)
    for bits in range(8, 17):
        b = deep_png(held_in(bits, hue), RGB)
        assert differs(tmp_path, b, hue, colour=True) <= 1
        assert differs(tmp_path, b, np.asarray(Image.fromarray(hue).convert('L'))) <= 1


@pytest.mark.parametrize('turn,exif', [
    (Image.Transpose.ROTATE_180, 3), (Image.Transpose.ROTATE_90, 6), (Image.Transpose.ROTATE_270, 8)])
@pytest.mark.parametrize('kind', KINDS)
def test_16_bits_upright(tmp_path, kind, turn, exif):
    lying, tag = np.asarray(Image.fromarray(XRAY).transpose(turn)), Image.Exif()
    tag[0x0112] = exif
    b = deep_png(in_kind(held_in(12, lying), KINDS[kind]), KINDS[kind], eXIf=tag.tobytes()[6:])
    assert differs(tmp_path, b, XRAY) <= 1 and differs(tmp_path, b, XRAY, colour=True) <= 1


@pytest.mark.parametrize('colour', [LA, RGBA])
def test_opacity_has_a_scale_of_its_own(tmp_path, colour):
    for opaque in (65535, 4095, 255):   # of 16 bits, of the film's, of 8
        assert differs(tmp_path, deep_png(in_kind(held_in(12), colour, opaque), colour), XRAY) <= 1
    assert differs(tmp_path, deep_png(in_kind(held_in(12), colour, 32768), colour), XRAY//2) <= 1   # half transparent
    below = XRAY//4
    # opacity tells 12 bits
    assert differs(tmp_path, deep_png(in_kind(held_in(12, below), colour, 4095), colour), below) <= 1
    bare = in_kind(held_in(12), colour)
    bare[:8], bare[:8, :, -1] = 65535, 0   # white under full transparency is not to be seen, and no film
    assert differs(tmp_path, deep_png(bare, colour),
                   np.where(np.arange(48)[:, None] < 8, 0, XRAY).astype(np.uint8)) <= 1


@pytest.mark.parametrize('colour', [GREY, RGB])
def test_a_transparent_colour_of_16_bits(tmp_path, colour):
    values = in_kind(held_in(12), colour)
    values[:8] = 60000
    b = deep_png(values, colour, tRNS=struct.pack('>H', 60000)*values.shape[-1])
    assert differs(tmp_path, b, np.where(np.arange(48)[:, None] < 8, 0, XRAY).astype(np.uint8)) <= 1


def drawn(size, soft):
    "The share of a burnt-in text in each pixel of a film of 240 x 300"
    im = Image.new('L', (240, 300))
    draw = ImageDraw.Draw(im)
    draw.fontmode = 'L' if soft else '1'
    draw.text((10, 10), 'L 12', 255, ImageFont.load_default(size))
    return np.asarray(im)/255


FILM = (200 - 180*np.hypot(*np.mgrid[-1:1:300j, -1:1:240j])/2**.5).clip(0, 255)
FILM = FILM + np.random.default_rng(0).normal(0, 4, (300, 240))
FILM = (FILM/FILM.max()*255).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('kind', ['grey', 'RGB', 'LA'])
@pytest.mark.parametrize('bits', [8, 10, 11, 12, 13, 14])
def test_a_mark_at_full_scale_does_not_darken_the_film(tmp_path, bits, kind, soft):
    for text in (12, 30, 60):
        if soft and bits == 14 and text == 12: continue   # a quarter of full scale: too near to a thin grey mark
        mark = drawn(text, soft)
        values = held_in(bits, FILM)*(1 - mark) + 65535*mark
        found = held(Deep(values.round().astype(np.uint16)[..., None]))
        assert (found.bits, found.marked) == (bits, True)
        (tmp_path/'x').write_bytes(deep_png(in_kind(values.round().astype(int), KINDS[kind]), KINDS[kind]))
        a = np.asarray(decode(tmp_path/'x', 300)).astype(int)
        want, under = fit(Image.fromarray(FILM), 300), fit(Image.fromarray(((mark > 0)*255).astype(np.uint8)), 300)
        assert abs(a - want)[under == 0].max() <= 1 and a[under == 255].max() == 255


def test_a_mark_in_colour_and_a_hot_pixel(tmp_path):
    values = in_kind(held_in(12, FILM), RGB)
    values[20:60, 20:26] = 65535, 0, 0
    (tmp_path/'x').write_bytes(deep_png(values, RGB))
    a = decode(tmp_path/'x', 240, 'pad', True)
    assert abs(a[:, 100:].astype(int) - fit(Image.fromarray(FILM), 240, 'pad')[100:]).max() <= 1
    assert a[0].max() == 255 and a[0, 40].max() > 200
    values = held_in(12, FILM)
    values[150, 100] = 65535
    assert held(Deep(values.astype(np.uint16)[..., None])) == Held(12, True, True)


def test_what_is_no_mark():
    "Bright things of a film that does use its 16 bits"
    bright = held_in(16, FILM)
    assert held(Deep(bright.astype(np.uint16)[..., None])).bits == 16
    y, x = np.mgrid[:300, :240]
    for width in (10, 25, 50):   # a bone in the dark, which ebbs away
        bone = (3000 + 62535*np.exp(-((x - 120)/width)**2)).round().astype(np.uint16)[..., None]
        assert held(Deep(bone)).bits >= 15
    mask = np.zeros((300, 240, 1), np.uint16)
    mask[:20, :20] = 65535
    assert held(Deep(mask)) == Held(16, True)   # nothing but the mark
    for value in (1, 200, 4095, 65535):
        assert held(Deep(np.full((4, 4, 1), value, np.uint16))).bits == max(8, value.bit_length())
    assert held(Deep(mask*0)) == Held(0)


@pytest.mark.parametrize('kind', KINDS)
def test_black_and_constant_films(tmp_path, kind):
    for value, want in ((0, 0), (1, 1), (4095, 255), (65535, 255)):
        a = level(tmp_path, deep_png(in_kind(np.full((9, 9), value), KINDS[kind]), KINDS[kind]))
        assert (a == want).all()


@pytest.mark.parametrize('kind', KINDS)
def test_broken_16_bits(tmp_path, kind):
    b = deep_png(in_kind(held_in(12), KINDS[kind]), KINDS[kind])
    for cut in (30, 60, len(b)//2, len(b) - 30):
        (tmp_path/'x').write_bytes(b[:cut])
        assert decode(tmp_path/'x', 8).startswith('damaged'), cut
    (tmp_path/'x').write_bytes(b[:-30] + bytes([b[-30] ^ 255]) + b[-29:])   # flipped bits: its checksum tells
    assert decode(tmp_path/'x', 8).startswith('damaged')
    (tmp_path/'x').write_bytes(png([b'\0'], 16, KINDS[kind], 60000, 60000))
    assert decode(tmp_path/'x', 8).startswith('too large')


def test_a_large_file_stays_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, '_IN_MEMORY', 1000)
    for colour in KINDS.values():
        b = deep_png(in_kind(held_in(12), colour), colour)
        assert len(b) > 1000 and differs(tmp_path, b, XRAY) <= 1


# ---- what a set holds

@pytest.fixture
def films(tmp_path):
    "Writes films of some bits, each given with its brightest value, in all kinds in turn"
    def write(*tops, mark=()):
        (tmp_path/'films').mkdir(exist_ok=True)
        paths = []
        for i, top in enumerate(tops):
            values = (FILM[::6, ::6]/255*top).round().astype(int)
            if i in mark: values[2:5, 2:4] = 65535
            colour = list(KINDS.values())[i % 4]
            paths.append(str(tmp_path/'films'/f'{i}.png'))
            Path(paths[-1]).write_bytes(deep_png(in_kind(values, colour), colour))
        return pd.DataFrame(dict(path=paths, label=[*'ab'*len(tops)][:len(tops)]))
    return write


def means(p): return p.pixels.reshape(len(p), -1).mean(1)


def calls(monkeypatch):
    "What was decoded, in no order"
    seen = []
    monkeypatch.setattr(module, 'read_picture', lambda path, *how: seen.append(path) or picture(path, *how))
    return seen


def test_films_of_one_depth_are_decoded_once(packed, films, monkeypatch):
    table, seen = films(*[3600 + 7*i for i in range(20)]), calls(monkeypatch)
    p = packed(table)
    assert sorted(seen) == sorted(table.path) and np.ptp(means(p)) < 8
    assert p.notes() == ['20 of 20 images are 16-bit files: black to white is 0 to 4,095 (12 bits) for 20 films']
    assert repr(p) == 'Pack(20 images of 16x16 px, squish, 16-bit files read as 12 bits)'


def test_a_dark_film_stays_dark(packed, films, monkeypatch, tmp_path):
    "Read alone, it would be four times as bright"
    table = films(*[3600 + 7*i for i in range(20)], 900)
    seen = calls(monkeypatch)
    p = packed(table)
    assert sorted(seen) == sorted([*table.path, table.path[20]])   # the dark film alone is decoded once more
    assert means(p)[20] < .3*means(p)[:20].min() and means(p)[:20].min() > 80
    for row, path in zip(p.pixels, table.path): assert (row == decode(path, 16, read_as=p.depths.read_as)).all()
    assert (p.pixels[20] != decode(table.path[20], 16)).any()
    assert 'Below 1,024 throughout' in p.notes()[1] and '1 film.' in p.notes()[1] and table.path[20] in p.notes()[1]
    again = packed(table)
    assert again.reused and again.notes() == p.notes() and again.depths == p.depths and again.crc == p.crc
    # were the dark film all of a class: labels are not looked at
    labelled = packed(table.assign(label=['x']*20 + ['y']))
    assert labelled.reused and (labelled.pixels == p.pixels).all()
    for workers in (1, 3): assert packed(table, workers=workers, cache=tmp_path/str(workers)).crc == p.crc


@pytest.mark.parametrize('colour', [False, True])
@pytest.mark.parametrize('resize', ['squish', 'pad'])
def test_dark_films_beside_rejects(packed, films, colour, resize):
    "Each in its own row, wherever it stands"
    table = films(900, *[3600 + 7*i for i in range(30)], 700, *[3900]*10, 800)
    for i in (0, 7, 35): open(table.path[i], 'wb').write(b'\x89PNG')
    p = packed(table, colour=colour, resize=resize)
    assert len(p) == 40 and set(p.depths.read_as.values()) == {12}
    for row, path in zip(p.pixels, p.table.path):
        assert (row == decode(path, 16, resize, colour, p.depths.read_as)).all()
    assert packed(table, colour=colour, resize=resize).reused


def test_two_kinds_of_film(packed, films):
    "Neither is black, and it is said"
    p = packed(films(*[3900]*6, *[64000]*40))
    assert np.ptp(means(p)) < 8 and p.depths.read_as == {12: 12, 16: 16}
    assert '0 to 4,095 (12 bits) for 6 films, 0 to 65,535 (16 bits) for 40 films' in p.notes()[0]
    assert len(p.notes()) == 2


def test_films_on_both_sides_of_a_power_of_two(packed, films):
    "One detector, whose films end at half its scale or a little above"
    p = packed(films(*[1900]*15, *[2200]*15))
    assert p.depths.read_as == {11: 12, 12: 12} and abs(means(p)[0]/means(p)[-1] - 1900/2200) < .02


def test_marks_in_a_set(packed, films):
    p, plain = packed(films(*[3900]*8, mark=[1, 6])), packed(films(*[3900]*8))
    assert abs(p.pixels[:, 4:].astype(int) - plain.pixels[:, 4:]).max() <= 1 and p.depths.marked == (1, 6)
    assert '2 films, the first' in p.notes()[-1] and p.table.path[1] in p.notes()[-1]


def test_black_films_say_nothing(packed, films):
    p = packed(films(0, 0, *[3900]*5))
    assert p.depths.read_as == {12: 12} and means(p)[:2].max() == 0 and len(p.notes()) == 1
    assert packed(films(0, 0)).notes() == []


def test_a_set_without_16_bits_has_no_notes(packed, table):
    assert packed().notes() == [] and packed().depths == Depths() and '16-bit' not in repr(packed())


def test_a_file_that_vanishes_between_both_readings(packed, films, monkeypatch):
    table = films(*[3900]*20, 900)
    seen = []
    def once(path, *how):
        seen.append(path)
        return decoding._Picture(reason='missing: no such file') if seen.count(path) > 1 else picture(path, *how)
    monkeypatch.setattr(module, 'read_picture', once)
    with pytest.raises(OSError, match='20.png could be read a moment ago, and now it cannot .missing'): packed(table)
    assert left(packed.folder) == []
    monkeypatch.undo()
    assert len(packed(table)) == 21


@pytest.mark.parametrize('change', [dict(depths=None), dict(depths=[[1]]), dict(marked=3)])
def test_a_pack_whose_depths_are_damaged_is_made_again(packed, films, change):
    p = packed(films(*[3900]*4))
    file = p.path/'pack.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.warns(UserWarning, match='made again'): assert packed(p.table).notes() == p.notes()


# ---- hostile files

def test_limits(tmp_path):
    for w, h in ((9460, 9460), (60000, 60000), (2**31-1, 2**31-1), (70000, 1)):
        (tmp_path/'x.png').write_bytes(png([b'\0'], 8, 0, w, h))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert decode(tmp_path/'x.png', 8).startswith('too large')
    with Image.new('1', (8000, 8000)) as im: (tmp_path/'x.png').write_bytes(saved(im))    # large, and allowed
    assert decode(tmp_path/'x.png', 8).shape == (8, 8)


def test_our_limit_holds_where_pillows_was_switched_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    (tmp_path/'x.png').write_bytes(png([b'\0'], 8, 0, 60000, 60000))
    assert decode(tmp_path/'x.png', 8) == 'too large: 60000x60000 pixels'


def test_a_bomb_warning_made_an_error_is_a_reject(tmp_path):
    (tmp_path/'x.png').write_bytes(png([b'\0'], 8, 0, 9500, 9500))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert decode(tmp_path/'x.png', 8).startswith('too large')


@pytest.mark.parametrize('error', [MemoryError(), OSError('x'), ValueError('x'), SyntaxError('x'), struct.error('x'),
                                   KeyError(3), OverflowError('x'), zlib.error('x')])
def test_whatever_the_decoder_raises_is_a_reject(tmp_path, monkeypatch, error):
    def fails(*a): raise error
    monkeypatch.setattr(decoding, 'fit', fails)
    assert isinstance(decode(image(tmp_path/'x.png'), 8), str)


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit])
def test_but_not_a_wish_to_stop(tmp_path, monkeypatch, error):
    def fails(*a): raise error
    monkeypatch.setattr(decoding, 'fit', fails)
    with pytest.raises(error): decode(image(tmp_path/'x.png'), 8)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    (tmp_path/'knot').symlink_to('knot')
    for name in ('pipe', '.', 'knot', 'gone', 'a\0b', 'x'*5000, 'gone/x'):
        assert isinstance(decode(str(tmp_path/name), 8), str)


@pytest.mark.parametrize('at', [1, 40, 200, -200, -20, -1])
@pytest.mark.parametrize('fmt', ['PNG', 'JPEG'])
def test_a_truncated_file_is_a_reject(tmp_path, fmt, at):
    b = saved(Image.fromarray(XRAY), fmt)
    (tmp_path/'x').write_bytes(b[:at])
    r = decode(tmp_path/'x', 8)
    assert isinstance(r, str) or (fmt == 'PNG' and at >= -20), r    # the last 12 bytes of a PNG hold no pixels


def check(tmp_path, b):
    (tmp_path/'soup').write_bytes(b)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        r = decode(tmp_path/'soup', 12)
    if isinstance(r, str): assert r.isprintable() and 5 < len(r) < 200
    else: assert r.shape == (12, 12) and r.dtype == np.uint8
    return r


@SOUP
@given(st.sampled_from([b'', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', b'\xff\xd8\xff\xe1\x00\x20Exif\0\0',
                        b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR']),
       st.binary(max_size=300))
def test_byte_soup(tmp_path, head, soup): check(tmp_path, head + soup)


def damaged(b, rng):
    a, at = bytearray(b), rng.randrange(len(b))
    kind = rng.randrange(5)
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))): a[rng.randrange(len(a))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(3): a[rng.randrange(min(400, len(a)))] = rng.randrange(256)
    elif kind == 2: del a[at:]
    elif kind == 3: del a[at:at+rng.randrange(1, 50)]
    else: a[at:at] = rng.randbytes(20)
    return bytes(a)


def bases():
    im, exif = Image.fromarray(XRAY), Image.Exif()
    exif[0x0112], exif[0x010f], exif[0x8769] = 6, 'maker', {36867: '2020:01:01 00:00:00'}
    for mode in ('1', 'P', 'LA', 'RGBA'): yield saved(im.convert(mode), exif=exif)
    yield saved(im.convert('P'), transparency=bytes(range(60)))
    yield saved(Image.fromarray(XRAY.astype(np.uint16)*257), exif=exif)
    for mode in ('L', 'RGB', 'CMYK'): yield saved(im.convert(mode), 'JPEG', exif=exif, progressive=mode == 'RGB')
    for colour, interlaced in ((2, False), (4, False), (6, True)):
        yield deep_png(in_kind(XRAY.astype(int)*16, colour), colour, interlaced, eXIf=exif.tobytes()[6:])


@pytest.mark.parametrize('base', range(12))
def test_damaged_images(tmp_path, base):
    b, rng, rejects = list(bases())[base], random.Random(base), 0
    for _ in range(150): rejects += isinstance(check(tmp_path, damaged(b, rng)), str)
    assert rejects > 30


@pytest.mark.shared
def test_damaged_radiographs(tmp_path, shared):
    files, rng = sorted((shared/'radiographs').rglob('*.*')), random.Random(0)
    results = [check(tmp_path, damaged(rng.choice(files).read_bytes(), rng)) for _ in range(600)]
    assert sum(isinstance(r, str) for r in results) > 100


# ---- a pack is whole

def test_order_and_rejects(packed, table, tmp_path):
    bad = [3, 17, 38]
    for i in bad: open(table.path[i], 'wb').write(b'\x89PNG\r\n\x1a\n')
    os.unlink(table.path[5])
    table = table.assign(group=range(40), age=9).set_index(pd.Index(range(100, 140)))
    for p in (packed(table, workers=1), packed(table), packed(table, workers=5, cache=tmp_path/'other')):
        keep = [i for i in range(40) if i not in (*bad, 5)]
        assert len(p) == 36 and p.table.group.tolist() == keep and list(p.table) == list(table)
        assert p.table.index.equals(pd.RangeIndex(36))
        for row, i in enumerate(keep): assert (p.pixels[row] == np.roll(np.resize(XRAY, (16, 16)), i)).all()
        assert p.rejects.path.tolist() == [table.path.iloc[i] for i in (3, 5, 17, 38)]
        assert p.rejects.reason[1].startswith('missing')
        assert list(p.rejects) == ['path', 'label', 'reason'] and isinstance(p.pixels, np.memmap)
        assert not p.pixels.flags.writeable


def test_odd_names_survive(packed, tmp_path):
    raw = [os.fsdecode(os.fsencode(tmp_path) + b'/' + n)
           for n in (b'\xff.png', 'я "q", \n\r.png'.encode(), 'a\x0b\x1cb\x85\u2028.png'.encode())]
    for p in raw: Image.fromarray(XRAY).save(io.FileIO(p, 'w'), 'PNG')
    gone = str(tmp_path/'gone,"\n.png')
    t = pd.DataFrame(dict(path=pd.Series([*raw, gone], dtype=object), label=list('abab')))
    for p in (packed(t), packed(t)): assert p.table.path.tolist() == raw and p.rejects.path.tolist() == [gone]
    assert p.reused


@pytest.mark.parametrize('broken', [
    'pixels.npy cut', 'pixels.npy longer', 'pixels.npy changed', 'pixels.npy gone', 'pixels.npy zero',
    'pixels.npy header', 'index.csv changed', 'pack.json gone', 'pack.json cut', 'pack.json list', 'pack.json schema'])
def test_a_damaged_pack_is_made_again(packed, broken):
    want = packed()
    name, how = broken.split()
    f = want.path/name
    b = f.read_bytes()
    if how == 'gone': f.unlink()
    else:
        damaged = {'cut': b[:-9], 'zero': b'', 'longer': b + b'x', 'list': b'[]',
                   'changed': b[:-5] + bytes([b[-5] ^ 8]) + b[-4:], 'header': b[:20] + b'?' + b[21:]}
        if name == 'pack.json': damaged['schema'] = json.dumps(json.loads(b) | dict(schema=99)).encode()
        f.write_bytes(damaged[how])
    with pytest.warns(UserWarning, match='is damaged .* made again'): again = packed()
    assert not again.reused
    assert (again.pixels == np.stack([decode(p, 16) for p in want.table.path])).all()
    assert packed().reused
    assert left(packed.folder) == [want.key]


def test_a_file_that_was_gone_for_a_moment_comes_back(packed, table, monkeypatch):
    "A drive that drops out after the files were listed: the same names, sizes and times another day"
    def without_one(path, *how):
        return decoding._Picture(reason='missing: no such file') if str(path) == table.path[7] else picture(path, *how)
    with monkeypatch.context() as m:
        for room in (module, decoding): m.setattr(room, 'read_picture', without_one)
        first = packed()
        assert first.rejects.path.tolist() == [table.path[7]] and packed().reused
    again = packed()
    assert not again.reused and len(again) == 40 and again.key == first.key and packed().reused


@pytest.mark.parametrize('fault', [OSError(errno.EACCES, 'Permission denied'), OSError(errno.EIO, 'Input/output error'),
                                   MemoryError()], ids=['rights', 'disk', 'memory'])
def test_what_could_not_be_read_is_tried_again(packed, table, monkeypatch, fault):
    "The same file, unchanged, another day: a fault that was not the file's is not kept for ever"
    class Faulty(io.BytesIO):
        def read(self, *args): raise fault
    def opened(path, *a, **kw): return Faulty() if str(path) == table.path[7] else open(path, *a, **kw)
    with monkeypatch.context() as m:
        m.setattr(dicomfile, 'open', opened, raising=False)
        first = packed()
        assert first.rejects.path.tolist() == [table.path[7]] and first.rejects.reason[0].startswith('unreadable: ')
        assert packed().reused   # as long as it cannot be read
    again = packed()
    assert not again.reused and len(again) == 40 and not len(again.rejects)
    assert again.key == first.key and again.crc != first.crc
    assert packed().reused and len(first.pixels) == 39   # who holds the old one keeps it

def test_the_key(packed, table, tmp_path):
    key = packed().key
    assert packed(table.assign(label='x')).key == key and packed(table.assign(group='g')).reused
    others = packed(size=17), packed(resize='pad'), packed(table[:39]), packed(table[::-1])
    assert len({key, *(p.key for p in others)}) == 5
    image(tmp_path/'set'/'7.png', 99)
    os.utime(tmp_path/'set'/'7.png', ns=(0, 5))
    changed = packed()
    assert changed.key != key and (changed.pixels[7] == np.roll(np.resize(XRAY, (16, 16)), 99)).all()


@pytest.mark.parametrize('kw,why', [
    (dict(size=7), 'from 8'),
    (dict(size=4097), 'to 4096'),
    (dict(size=32.0), 'whole number'),
    (dict(size=True), 'whole'),
    (dict(size='224'), 'whole'),
    (dict(resize='crop'), "'squish' or 'pad'"),
    (dict(workers=0), 'workers=0'),
    (dict(t=[1]), 'images_of'),
    (dict(t=pd.DataFrame(dict(path=[]))), 'images_of'),
])
def test_arguments(packed, kw, why):
    with pytest.raises(ValueError, match=why): packed(**kw)
    assert left(packed.folder) == []


def test_nothing_decodes(packed, table):
    for p in table.path: open(p, 'w').write('text')
    os.unlink(table.path[0])
    with pytest.raises(ValueError, match='none of the 40 files could be decoded: 39 not a PNG or JPEG, 1 missing'):
        packed()
    assert left(packed.folder) == []


def test_a_class_is_lost(packed, table):
    for p in table.path[table.label == 'b']: open(p, 'w').close()
    for _ in range(2):
        with pytest.raises(ValueError, match='no image of the class b could be decoded .20 empty;'): packed()
    assert len(packed(table.assign(label='all'))) == 20


def test_no_room(packed, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda p: types.SimpleNamespace(free=5e5))
    with pytest.raises(OSError, match='need 1.1 MB .* has 500.0 kB free: make room, or set XRAY_XFER_CACHE') as e:
        packed()
    assert e.value.errno == errno.ENOSPC and left(packed.folder) == []


class Full:
    "A file on a disk that is full after `room` bytes"
    def __init__(self, f, room): self.f, self.room = f, room
    def __getattr__(self, name): return getattr(self.f, name)
    def __enter__(self): return self
    def __exit__(self, *a): self.f.close()
    def write(self, b):
        self.room -= len(b) if isinstance(b, str) else memoryview(b).nbytes
        if self.room < 0: raise OSError(errno.ENOSPC, 'No space left on device')
        return self.f.write(b)


@pytest.mark.parametrize('name,room', [('pixels.npy', 0), ('pixels.npy', 2000), ('index.csv', 30)])
def test_the_disk_fills_up(packed, monkeypatch, name, room):
    def opened(p, *a, **kw): return Full(open(p, *a, **kw), room) if str(p).endswith(name) else open(p, *a, **kw)
    monkeypatch.setattr(module, 'open', opened, raising=False)
    with pytest.raises(OSError, match='No space left'): packed()
    assert left(packed.folder) == []
    monkeypatch.undo()
    assert len(packed()) == 40


SCRIPT = '''
import sys, signal, resource, pandas as pd
from xray_xfer.data.packing import pack
folder, cache, how = sys.argv[1:]
t = pd.DataFrame(dict(path=[f"{folder}/{i}.png" for i in range(40)]*1, label=list("ab")*20))
if how == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
else:
    import time, xray_xfer.data.packfile as m
    one = m.read_picture
    def slow(*a):
        time.sleep(.02)
        return one(*a)
    m.read_picture = slow
print("go", flush=True)
p = pack(t, size=100, cache=cache, quiet=True)
print(len(p), flush=True)
'''


def start(packed, table, how):
    folder = os.path.dirname(table.path[0])
    # a shell's background jobs ignore SIGINT
    heed_ctrl_c = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    p = subprocess.Popen([sys.executable, '-c', SCRIPT, folder, str(packed.folder.parent), how],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    assert p.stdout.readline() == 'go\n', p.stderr.read()
    return p


def test_a_file_size_limit(packed, table):
    "A real write that really fails: RLIMIT_FSIZE of 100 kB, a pack of 400 kB"
    p = start(packed, table, 'limit')
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 1 and 'File too large' in err and left(packed.folder) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='kills a process with a POSIX signal, which this system has not')
def test_killed_at_any_moment(packed, table):
    rng, halves = random.Random(0), 0
    for _ in range(3):
        p = start(packed, table, 'slow')
        time.sleep(rng.uniform(.02, .3))
        p.kill()
        p.communicate(timeout=60)
        found = left(packed.folder)
        # nothing under a final name; a lock of a dead process binds nobody
        found = [n for n in found if not (n.startswith('.') and n.endswith(('.lock', '.json')))]
        assert all(n.endswith('.part') for n in found)
        halves += len(found)
    assert halves
    # and the halves are swept away
    assert not packed(size=100).reused and left(packed.folder) == [packed(size=100).key]


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='kills a process with a POSIX signal, which this system has not')
def test_ctrl_c(packed, table):
    p = start(packed, table, 'slow')
    time.sleep(.15)
    p.send_signal(signal.SIGINT)
    began = time.monotonic()
    err = p.communicate(timeout=60)[1]
    assert p.returncode != 0 and 'KeyboardInterrupt' in err and time.monotonic() - began < 2
    assert left(packed.folder) == []


def _pack_in_process(t, cache, out): out.put(len(pack(t, size=64, cache=cache, quiet=True)))


def test_two_processes_make_the_same_pack(packed, table, tmp_path):
    ctx = multiprocessing.get_context('fork')
    out = ctx.SimpleQueue()
    jobs = [ctx.Process(target=_pack_in_process, args=(table, tmp_path/'cache', out)) for _ in range(3)]
    for j in jobs: j.start()
    for j in jobs: j.join(60)
    assert [j.exitcode for j in jobs] == [0]*3 and packed(size=64).reused
    assert left(packed.folder) == [packed(size=64).key]


def test_decoding_keeps_only_a_few_images_ahead(monkeypatch):
    asked = []
    monkeypatch.setattr(module, 'read_picture', lambda p, *how: asked.append(p) or decoding._Picture(reason='none'))
    results = module._decoded([''] * 100_000, 8, 'squish', False, 2)
    next(results)
    time.sleep(.1)
    results.close()
    assert 16 <= len(asked) <= 16*(2*2 + 1)


def test_pillows_leniency_comes_back(packed, monkeypatch):
    from PIL import ImageFile
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    seen = []
    def read(*a):
        seen.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        return decoding._Picture(np.zeros((16, 16), np.uint8))
    monkeypatch.setattr(module, 'read_picture', read)
    packed()
    assert seen == [False]*40 and ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_bar_only_where_someone_looks(packed, capfd):
    packed(quiet=False)
    assert capfd.readouterr().err == ''       # captured: no terminal
