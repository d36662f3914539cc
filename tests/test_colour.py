"Colour, where a data set means something by it: four classes that differ in nothing but their hue."
import struct, zlib
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from xray_xfer.controls.ask import CONTROLS, controls
from xray_xfer.data.table import images_of
from xray_xfer.data.demo import draw
from xray_xfer.training.feed import feed, logits_of
from xray_xfer.training.loaders import PackedImage
from xray_xfer.training.ready import Frame, packed, prepare
from xray_xfer.models.blueprint import stats
from xray_xfer.report.compared import report
from xray_xfer.settings import Settings
from xray_xfer.data.decode import decode
from xray_xfer.data.packing import pack
from xray_xfer.train import run
from xray_xfer.twins.find import find_twins

HUES = {'COVID': (1, .3, .3), 'Normal': (.3, 1, .3), 'Lung_Opacity': (.3, .3, 1), 'Viral Pneumonia': (1, 1, .3)}
LUMA = np.array([.299, .587, .114])

@pytest.fixture(scope='module')
def tinted(tmp_path_factory):
    "Phantoms of one class under four names, each in a hue of the same luma"
    folder = draw(tmp_path_factory.mktemp('colour')/'tinted', n=120, size=64)
    normal = sorted((folder/'Normal'/'images').iterdir())
    for label, hue in HUES.items():
        for i in range(len(list((folder/label/'images').iterdir()))):
            with Image.open(normal[(i + 7 * list(HUES).index(label)) % len(normal)]) as im:
                a = np.asarray(im.convert('L')).astype(float)
            Image.fromarray(
                (a[..., None] * np.array(hue) / (LUMA @ hue) * 0.4).clip(0, 255).round().astype(np.uint8)
            ).save(folder / f'{label}-{i}.png')
    for label in HUES:
        for i, f in enumerate(sorted((folder/label/'images').iterdir())): (folder/f'{label}-{i}.png').replace(f)
    return folder

SMALL = dict(arch='resnet10t', depth=1, pretrained=False, size=64, epochs=3, bs=16, groups=False, quiet=True)

@pytest.mark.usefixtures('plain_figures')
def test_colour_is_seen_only_where_it_is_asked_for(tinted, tmp_path):
    grey = run(tinted, **SMALL, name='grey', out=tmp_path)
    seen = {
        name: run(tinted, **SMALL, colour=True, name=name, out=tmp_path, **kw)
        for name, kw in dict(cached=dict(), images=dict(cache=False), views=dict(views=2)).items()
    }
    assert grey.metrics['accuracy'] < .6 and not grey.config['colour']
    assert all(r.metrics['accuracy'] > .9 and r.config['colour'] for r in seen.values())
    assert '--colour' in report(seen['cached'].path).read_text()
    assert 'red, green and blue' in (seen['cached'].path / 'MODEL_CARD.md').read_text()
    asked = controls(seen['cached'], tinted, shuffled=False, quiet=True)   # a hue is no finding in the lungs
    assert asked['verdict'] == 'elsewhere'

def test_cached_colour_is_uncached_colour(tinted):
    from xray_xfer.models.classifier import build
    s = Settings(arch='resnet10t', depth=1, size=64, colour=True, groups=False, device='cpu', quiet=True)
    prepared, norm = prepare(tinted, s), stats(s.arch)
    model = build(s.arch, s.depth, pretrained=False, size=s.size)
    a, b = (feed(model, prepared, replace(s, cache=cache), norm) for cache in (True, False))
    assert (a.trains_on, b.trains_on) == ('features', 'images')
    x, y = logits_of(a.net, a.dls[2]), logits_of(b.net, b.dls[2])
    assert np.allclose(x, y, atol=2e-3*abs(y).max()) and np.ptp(y, axis=0).max() > 0

def test_what_looks_at_structure_sees_grey(tinted):
    table = images_of(tinted)
    p, grey = pack(table, 64, colour=True, quiet=True), pack(table, 64, quiet=True)
    assert abs(p.grey(np.arange(len(p))).astype(int) - grey.pixels).max() <= 1
    assert find_twins(p, quiet=True).pairs.equals(find_twins(grey, quiet=True).pairs)

def test_controls_paint_every_channel():
    pixels, lungs = (
        np.random.default_rng(0).integers(1, 255, (2, 3, 32, 32), dtype=np.uint8),
        np.zeros((2, 32, 32), bool),
    )
    lungs[:, 8:20, 10:25] = True
    grey = pixels[:, 0]
    for change in CONTROLS.values():
        assert change(pixels, lungs).shape == pixels.shape and change(pixels, lungs).dtype == np.uint8
        assert (change(pixels, lungs)[:, 0] == change(grey, lungs)).all()

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
@pytest.mark.parametrize('resize', ['squish', 'pad'])
def test_any_mode_has_three_planes(tmp_path, mode, resize):
    a = np.arange(64*48).reshape(48, 64) % 200
    im = (
        Image.fromarray(a.astype(np.uint16) * 257)
        if mode == 'I;16'
        else Image.fromarray(a.astype(np.uint8)).convert('L').convert(mode)
    )
    im.save(tmp_path/'a.png')
    got, grey = decode(tmp_path/'a.png', 32, resize, True), decode(tmp_path/'a.png', 32, resize)
    # grey in, grey out
    assert got.shape == (3, 32, 32) and got.flags.c_contiguous and abs(got.astype(int) - grey).max() <= 1

def test_a_colour_pack_is_not_taken_for_a_grey_one(tinted):
    p = pack(images_of(tinted), 64, colour=True, quiet=True)
    with pytest.raises(ValueError, match='colour=False for a pack of size 64'): packed(p, Frame(64, 'squish', False))
    with pytest.raises(ValueError, match='give True or False'): pack(images_of(tinted), 64, colour='yes')

def png_of(values):
    "A 16-bit RGB PNG of (h, w, 3), as Pillow writes none"
    chunk = lambda k, d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    h, w, _ = values.shape
    rows = b''.join(b'\0' + row.tobytes() for row in values.astype('>u2'))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))

def test_hues_of_12_bits_in_16(tinted, tmp_path):
    "The same films and hues in 16-bit colour: the same pixels"
    table = images_of(tinted)[::8].reset_index(drop=True)
    deep = table.assign(path=[str(tmp_path/f'{i}.png') for i in range(len(table))])
    for f, to in zip(table.path, deep.path):
        with Image.open(f) as im: Path(to).write_bytes(png_of((np.asarray(im.convert('RGB'))/255*4095).round()))
    for colour in (False, True):
        a, b = pack(table, 64, colour=colour, quiet=True), pack(deep, 64, colour=colour, quiet=True)
        assert a.pixels.mean() > 40
        assert abs(a.pixels.astype(int) - b.pixels).max() <= 1
        assert a.notes() == []
        assert len(b.notes()) == 1

def test_a_new_file_is_read_as_its_set_was(tmp_path):
    "A dark film of 12 bits, from the pack and from its file: as dark in both"
    paths = []
    for i, top in enumerate([3900]*12 + [900]):
        paths.append(str(tmp_path/f'{i}.png'))
        Path(paths[-1]).write_bytes(png_of(np.linspace(0, top, 32*32*3).reshape(32, 32, 3).round()))
    p = pack(pd.DataFrame(dict(path=paths, label=[*'ab'*6, 'a'])), 32, colour=True, quiet=True)
    item = PackedImage(p, ['a', 'b'])
    for row, path in enumerate(paths): assert (item.encodes(path) == item.encodes(row)).all()
    assert item.encodes(12).float().mean() < .3*item.encodes(0).float().mean()
    del item.__dict__['read_as']   # as exported before packs knew it: read by the file alone
    assert abs(item.encodes(paths[12]).float().mean() - item.encodes(0).float().mean()) < 20
