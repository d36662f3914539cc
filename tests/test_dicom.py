"""DICOM: films in every syntax beside the same pixels as PNG, files that mean harm, and who the patient is, which gets
nowhere. What a page shows (the five steps from value to grey, single reasons) is not repeated."""
import io, logging, os, re, shutil, struct, subprocess, sys, zipfile, zlib
from pathlib import Path

import numpy as np, pandas as pd, pydicom, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from xray_xfer.cli import main
from xray_xfer.data.decode import decode
from xray_xfer.data.dicom import Seen, grey_of_values
from xray_xfer.data.demo import draw
from xray_xfer.data.header import key_file
from xray_xfer.data.packing import NotDecoded, pack
from xray_xfer.data.table import images_of

# what stands in every header below; none of it may get anywhere
PLANTED = dict(PatientName='Plantedname^Jane', PatientID='plantedid-{n}', PatientBirthDate='19230405',
               AccessionNumber='plantedacc-{n}', StudyDate='20010203', StudyTime='040506',
               InstitutionName='Clinic of the Plain', Manufacturer='Maker', ImageComments='comment of plantedname',
               PatientAddress='plantedstreet 5', ReferringPhysicianName='Planteddoctor^Joe')
ROOT = '1.2.826.0.1.3680043.8.498.77'
SECRET = re.compile(rb'planted|1923-?04-?05|2001-?02-?03|' + re.escape(ROOT).encode(), re.I)

@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    "The key of the patient codes is made in a folder of the test, never in the user's"
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path/'config'))

def film(values, syntax=uid.ExplicitVRLittleEndian, stored=None, n=0, **said):
    "A dataset of these values, with all that is planted"
    ds = Dataset()
    ds.preamble, ds.file_meta = bytes(128), FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f'{ROOT}.{n}.1'
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f'{ROOT}.{n}.2', f'{ROOT}.{n}.3'
    for name, value in PLANTED.items(): setattr(ds, name, value.format(n=n))
    ds.Modality, ds.Rows, ds.Columns = 'CR', *values.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.BitsAllocated = values.dtype.itemsize * 8
    ds.BitsStored = stored or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(values.dtype.kind == 'i')
    little = syntax != uid.ExplicitVRBigEndian
    ds.PixelData = values.astype(values.dtype.newbyteorder('<' if little else '>')).tobytes()
    ds['PixelData'].VR = 'OB' if ds.BitsAllocated == 8 else 'OW'
    for name, value in said.items(): setattr(ds, name, value)
    return ds

def compressed(ds, syntax, **kw):
    ds.compress(syntax, generate_instance_uid=False, **kw)
    return ds

def as_jpeg(values, **said):
    "8-bit JPEG, as most films of public challenges are"
    ds, b = film(values, uid.JPEGBaseline8Bit, **said), io.BytesIO()
    Image.fromarray(values).save(b, 'JPEG', quality=90)
    ds.PixelData = pydicom.encaps.encapsulate([b.getvalue()])
    ds['PixelData'].VR = 'OB'
    return ds

def lossless_jpeg(ds, path):
    "Process 14, selection value 1: what most devices write; pydicom cannot, gdcm can"
    import gdcm
    ds.save_as(path)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()

def twelve(grey): return (grey.astype(np.float64) / 255 * 4095).round().astype(np.uint16)
def negative(values, bits): return (2**bits - 1 - values).astype(values.dtype)

# name -> (grey uint8, path) -> None
LOSSLESS = {
    'implicit': lambda g, p: film(g, uid.ImplicitVRLittleEndian).save_as(p),
    'explicit': lambda g, p: film(g).save_as(p),
    'big endian': lambda g, p: film(twelve(g), uid.ExplicitVRBigEndian, 12).save_as(p),
    'deflated': lambda g, p: film(g, uid.DeflatedExplicitVRLittleEndian).save_as(p),
    'RLE': lambda g, p: compressed(film(twelve(g), stored=12), uid.RLELossless).save_as(p),
    'JPEG lossless': lambda g, p: lossless_jpeg(film(twelve(g), stored=12), p),
    'JPEG-LS': lambda g, p: compressed(film(twelve(g), stored=12), uid.JPEGLSLossless).save_as(p),
    'JPEG 2000': lambda g, p: compressed(film(twelve(g), stored=12), uid.JPEG2000Lossless).save_as(p),
    'JPEG 2000, 8 bit': lambda g, p: compressed(film(g), uid.JPEG2000Lossless).save_as(p),
    'MONOCHROME1': lambda g, p: film(negative(g, 8), PhotometricInterpretation='MONOCHROME1').save_as(p),
    'MONOCHROME1 and INVERSE': lambda g, p: film(negative(twelve(g), 12), stored=12, PresentationLUTShape='INVERSE',
                                                 PhotometricInterpretation='MONOCHROME1').save_as(p),
    'INVERSE': lambda g, p: film(negative(g, 8), PresentationLUTShape='INVERSE').save_as(p),
    'signed': lambda g, p: film((twelve(g).astype(int) - 2048).astype(np.int16), stored=12).save_as(p),
    '10 bits': lambda g, p: film((g / 255 * 1023).round().astype(np.uint16), stored=10).save_as(p),
    '16 bits': lambda g, p: film(g.astype(np.uint16) * 257).save_as(p),
    'rescaled': lambda g, p: film(g, RescaleSlope=-2, RescaleIntercept=510, WindowCenter=255.5, WindowWidth=511,
                                  PhotometricInterpretation='MONOCHROME1').save_as(p),
    'window': lambda g, p: film(twelve(g), stored=16, WindowCenter=[2048, 9], WindowWidth=[4096, 9]).save_as(p),
}
LOSSY = {
    'JPEG': lambda g, p: as_jpeg(g).save_as(p),
    'JPEG-LS, off by 3 at most': lambda g, p: compressed(film(g), uid.JPEGLSNearLossless, jls_error=3).save_as(p),
    'JPEG 2000, a fifth': lambda g, p: compressed(film(g), uid.JPEG2000, j2k_cr=[5]).save_as(p),
}

def drawn(root, n):
    "Drawn films of 96 pixels: {name: uint8}"
    draw(root, n=n, size=96)
    return {p.name: np.asarray(Image.open(p).convert('L')) for p in sorted(root.rglob('images/*.png'))}

@pytest.fixture(scope='module')
def greys(tmp_path_factory): return drawn(tmp_path_factory.mktemp('drawn'), 12)

def set_of(folder, greys, write, ending='.dcm'):
    "A folder per class"
    for name, g in greys.items():
        to = folder/name.split('-')[0]/name.replace('.png', ending)
        to.parent.mkdir(parents=True, exist_ok=True)
        write(g, to)
    return folder

@pytest.fixture(scope='module')
def of_pngs(greys, tmp_path_factory):
    folder = set_of(tmp_path_factory.mktemp('png'), greys, lambda g, p: Image.fromarray(g).save(p), '.png')
    return {size: pack(images_of(folder), size=size, quiet=True).pixels.astype(int) for size in (64, 96)}

# Films

@pytest.mark.parametrize('way', LOSSLESS)
def test_without_loss_a_film_is_its_png(way, greys, of_pngs, tmp_path):
    "To one grey level, which rounding twice may cost"
    p = pack(images_of(set_of(tmp_path/'set', greys, LOSSLESS[way])), size=64, quiet=True)
    assert len(p.rejects) == 0 and abs(p.pixels - of_pngs[64]).max() <= 1

@pytest.mark.parametrize('way', LOSSY)
def test_with_loss_a_film_is_what_its_decoder_says(way, greys, of_pngs, tmp_path):
    table = images_of(set_of(tmp_path/'set', greys, LOSSY[way]))
    p = pack(table, size=96, quiet=True)
    decoded = np.stack([pydicom.dcmread(path).pixel_array for path in table.path]).astype(int)
    assert abs(p.pixels - decoded).max() <= 1   # decoders of JPEG round in their own ways
    assert .1 < abs(p.pixels - of_pngs[96]).mean() < 3

@pytest.mark.shared
def test_real_films(shared, tmp_path):
    "Forty of them, in turn in every lossless way, among them both kinds of negatives"
    table = images_of(shared/'radiographs').iloc[::90].reset_index(drop=True)
    want = pack(table, size=128, quiet=True).pixels.astype(int)
    paths = []
    for i, (path, write) in enumerate(zip(table.path, list(LOSSLESS.values()) * 9)):
        with Image.open(path) as im: write(np.asarray(im.convert('L')), tmp_path/f'{i}.dcm')
        paths.append(str(tmp_path/f'{i}.dcm'))
    p = pack(images_of(table.assign(path=paths)[['path', 'label']]), size=128, quiet=True)
    assert abs(p.pixels - want).max() <= 1

def test_colour_is_three_times_grey(greys, tmp_path):
    film(next(iter(greys.values()))).save_as(tmp_path/'a.dcm')
    a = decode(tmp_path/'a.dcm', 64, colour=True)
    assert a.shape == (3, 64, 64) and (a == decode(tmp_path/'a.dcm', 64)).all()

@settings(deadline=None, max_examples=150)
@given(stored=st.integers(8, 12), signed=st.booleans(), slope=st.sampled_from([1, .5, -1, 3.25]),
       intercept=st.integers(-3000, 3000), centre=st.floats(-4000, 4000), width=st.floats(1, 9000),
       form=st.sampled_from(['LINEAR', 'LINEAR_EXACT', 'SIGMOID']), negative=st.booleans(), shape=st.booleans())
def test_the_table_is_the_formula(stored, signed, slope, intercept, centre, width, form, negative, shape):
    centre, width = float(f'{centre:.9g}'), float(f'{width:.9g}')   # as a header can say them
    kind = np.int16 if signed else np.uint16
    ds = film(np.zeros((1, 1), kind), stored=stored, RescaleSlope=slope, RescaleIntercept=intercept,
              VOILUTFunction=form, PhotometricInterpretation='MONOCHROME1' if negative else 'MONOCHROME2')
    ds.WindowCenter, ds.WindowWidth = centre, width
    if shape: ds.PresentationLUTShape = 'INVERSE'
    got = grey_of_values(ds, Seen(stored, signed, 2**(stored - signed) - 1))
    for pattern in range(0, 2**stored, 37):
        v = pattern - 2**stored * (signed and pattern >= 2**(stored - 1))
        x = v * slope + intercept
        if form == 'SIGMOID': y = 1 / (1 + np.exp(min(700, -4 * (x - centre) / width)))
        elif form == 'LINEAR_EXACT': y = min(1, max(0, (x - centre) / width + .5))
        elif x <= centre - .5 - (width - 1) / 2: y = 0
        elif x > centre - .5 + (width - 1) / 2: y = 1
        else: y = (x - (centre - .5)) / (width - 1) + .5
        assert abs(got[pattern] - 255 * (1 - y if negative or shape else y)) <= .5 + 1e-6

def test_the_files_that_pydicom_ships():
    "Each becomes a picture or a reason, and no reason quotes its header"
    root, fate = Path(pydicom.data.__file__).parent, {}
    everything = (p for d in ('test_files', 'charset_files', 'palettes') for p in (root/d).rglob('*'))
    for path in sorted(p for p in everything if p.is_file()):
        reason = fate[path.relative_to(root).as_posix()] = decode(path, 32)
        if not isinstance(reason, str) or reason.startswith('not a'): continue
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        names = 'PatientName', 'PatientID', 'SOPInstanceUID', 'PatientBirthDate', 'AccessionNumber'
        said = [str(ds.get(n) or '') for n in names]
        assert not any(len(s) > 3 and s in reason for s in said), reason
    films = {n for n, r in fate.items() if not isinstance(r, str)}
    kinds = {n.split('/')[-1]: r.split(':')[0] for n, r in fate.items() if isinstance(r, str)}
    tests = ('MR_small.dcm', 'MR_small_RLE.dcm', 'MR_small_bigendian.dcm', 'MR_small_implicit.dcm', 'image_dfl.dcm',
             'MR_small_jp2klossless.dcm', 'MR_small_jpeg_ls_lossless.dcm', 'JPEG2000.dcm', 'JPEGLSNearLossless_16.dcm')
    assert {f'test_files/{n}' for n in tests} | {'test_files/dicomdirtests/77654033/CR1/6154'} <= films
    same = [fate[f'test_files/{n}'] for n in tests if n.startswith('MR_small')]
    assert all((a == same[0]).all() for a in same)
    want = {'DICOMDIR': 'no image', 'reportsi.dcm': 'no image', 'rtplan.dcm': 'no image',
            'SC_rgb_jpeg.dcm': 'in colour', 'waveform_ecg.dcm': 'no image', 'examples_palette.dcm': 'in colour',
            'rtdose.dcm': 'several frames', 'liver_1frame.dcm': 'unusual depth', 'MR_truncated.dcm': 'damaged',
            'JPEG-lossy.dcm': 'unknown compression'}
    there = {n: reason for n, reason in want.items() if n in kinds}   # older versions ship less
    assert len(there) > 7 and {n: kinds[n] for n in there} == there

# Files that mean harm

def file_of(body, syntax):
    "A DICOM file of this dataset, which may be no such thing"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    b = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(b, meta, enforce_standard=False)
    return bytes(128) + b'DICM' + b.getvalue() + body

def hostile(folder):
    "Name -> how its reason begins"
    g = (np.arange(64 * 64) % 251).astype(np.uint8).reshape(64, 64)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    folded = b''.join(squeeze.compress(bytes(2**24)) for _ in range(64)) + squeeze.flush()   # a gigabyte
    j2k = compressed(film(g), uid.JPEG2000Lossless)
    stream = bytearray(pydicom.encaps.get_frame(j2k.PixelData, 0, number_of_frames=1))
    struct.pack_into('>II', stream, stream.find(b'\xff\x4f\xff\x51') + 8, 60000, 60000)
    j2k.PixelData = pydicom.encaps.encapsulate([bytes(stream)])
    cut = as_jpeg(g)
    cut.PixelData = pydicom.encaps.encapsulate([pydicom.encaps.get_frame(cut.PixelData, 0, number_of_frames=1)[:400]])
    no_pixels = film(g)
    del no_pixels.PixelData
    nested = b''
    for _ in range(2000):   # sequences in sequences, none of which says how long it is
        nested = b''.join([b'\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff', nested,
                           b'\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0'])
    files = {
        'claims.dcm': (film(g, Rows=60000, Columns=60000), 'too large: 60000x60000'),
        'side.dcm': (film(g, Rows=1, Columns=65535), 'damaged'),
        'stream.dcm': (j2k, 'damaged: 60000x60000 pixels in its stream'),
        'cut.dcm': (cut, 'damaged'), 'short.dcm': (film(g, Rows=65), 'damaged'),
        'report.dcm': (no_pixels, 'no image'),
        'loop.dcm': (film(np.stack([g] * 3), NumberOfFrames=3), 'several frames'),
        'colour.dcm': (film(g, SamplesPerPixel=3, PhotometricInterpretation='RGB'), 'in colour'),
        'raw.dcm': (film(g, PresentationIntentType='FOR PROCESSING'), 'for processing'),
        'raw too.dcm': (film(g, SOPClassUID='1.2.840.10008.5.1.4.1.1.1.1.1'), 'for processing'),
        'no polarity.dcm': (film(g, PhotometricInterpretation=None), 'damaged'),
    }
    for name, (ds, _) in files.items(): ds.save_as(folder/name)
    whole = io.BytesIO()
    film(g).save_as(whole)
    raw = {'inflates.dcm': (file_of(folded, uid.DeflatedExplicitVRLittleEndian), 'too large: it inflates'),
           'noise.dcm': (file_of(b'noise', uid.DeflatedExplicitVRLittleEndian), 'damaged'),
           'nested.dcm': (file_of(nested, uid.ExplicitVRLittleEndian), 'damaged'),
           'text.dcm': (b'to do: ask radiology' * 99, 'damaged'),
           'preamble': (bytes(128) + b'DICM', 'damaged'), 'half.dcm': (whole.getvalue()[:-2000], 'damaged'),
           'film.png': (whole.getvalue(), 'DICOM under another name'), 'empty.dcm': (b'', 'empty')}
    for name, (b, _) in raw.items(): (folder/name).write_bytes(b)
    (folder/'link.dcm').symlink_to('nowhere')
    return {n: r for n, (_, r) in (files | raw).items() if r} | {'link.dcm': 'missing'}

def test_what_means_harm_is_a_counted_reject(greys, tmp_path, capsys):
    "One by one among good films; quickly, in little memory, with nothing half-written"
    import resource
    folder = set_of(tmp_path/'set', greys, LOSSLESS['explicit'])
    wanted = hostile(folder/'COVID')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    p = pack(images_of(folder), size=32, cache=tmp_path/'cache', quiet=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900_000   # kB: the limit is 256 MB of values
    got = {Path(r.path).name: r.reason for r in p.rejects.itertuples()}
    assert len(p) == 12 and got.keys() == wanted.keys()
    for name, reason in wanted.items(): assert got[name].startswith(reason), (name, got[name])
    assert not SECRET.search(str(got).encode())
    assert not [f for f in (tmp_path/'cache').rglob('*') if f.name.endswith('.part')]

def test_a_set_of_nothing_but_harm_is_an_error(tmp_path):
    for c in 'AB':
        (tmp_path/c).mkdir()
        film(np.zeros((9, 9), np.uint8), Rows=60000, Columns=60000).save_as(tmp_path/c/'1.dcm')
    with pytest.raises(NotDecoded, match='none of the 2 files could be decoded: 2 too large') as e:
        pack(images_of(tmp_path), size=32, cache=tmp_path/'cache', quiet=True)
    assert not SECRET.search(str(e.value).encode())
    assert [f for f in (tmp_path/'cache').rglob('*') if f.is_file()] == []

def test_damaged_bytes_become_a_film_or_a_reason(greys, tmp_path):
    "Nothing else is raised, and nothing is quoted"
    rng, files = np.random.default_rng(0), []
    for write in (LOSSLESS['explicit'], LOSSLESS['JPEG-LS'], LOSSLESS['RLE'], LOSSLESS['deflated'], LOSSY['JPEG']):
        write(next(iter(greys.values())), tmp_path/'whole.dcm')
        files.append((tmp_path/'whole.dcm').read_bytes())
    for i in range(400):
        b = bytearray(files[i % len(files)])
        for at in rng.integers(0, min(len(b), 1500 if i % 3 else len(b)), rng.integers(1, 9)): b[at] = rng.integers(256)
        if i % 5 == 4: b = b[:rng.integers(1, len(b))]
        (tmp_path/'torn.dcm').write_bytes(bytes(b))
        found = decode(tmp_path/'torn.dcm', 16)
        if isinstance(found, str): assert found and not SECRET.search(found.encode()), found
        images_of(pd.DataFrame(dict(path=[str(tmp_path/'torn.dcm'), str(tmp_path/'whole.dcm')], label=['a', 'b'])))

@pytest.mark.parametrize('way', ['JPEG lossless', 'JPEG 2000'])
def test_a_stream_that_brings_a_decoder_down_costs_its_film_alone(way, greys, tmp_path):
    "gdcm ends the process at some of these"
    rng = np.random.default_rng(3)
    LOSSLESS[way](next(iter(greys.values())), tmp_path/'film.dcm')
    ds = pydicom.dcmread(tmp_path/'film.dcm')
    whole = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
    for i in range(60):
        b = bytearray(whole)
        for at in rng.integers(0, len(b) if i % 2 else 120, rng.integers(1, 6)): b[at] = rng.integers(256)
        ds.PixelData = pydicom.encaps.encapsulate([bytes(b)])
        ds.save_as(tmp_path/'torn.dcm')
        found = decode(tmp_path/'torn.dcm', 16)
        assert not isinstance(found, str) or found.startswith('damaged')
    assert not isinstance(decode(tmp_path/'film.dcm', 16), str)

# Tables

def with_views(folder, greys):
    "Films in four views, of three modalities; the first says that there is writing in it"
    views = ['PA', 'AP', 'LL', None]
    for i, (name, g) in enumerate(greys.items()):
        ds = film(g, n=i // 2, ViewPosition=views[i % 4], PatientSex='FM'[i % 2], PatientAge=f'{85 + i:03}Y')
        if i == 0: ds.BurnedInAnnotation = 'YES'
        if i == 11: ds.Modality = 'CT'
        to = folder/name.split('-')[0]/f'film{i}'   # no ending, as they leave an archive
        to.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(to)
    return folder

def test_headers_become_columns(greys, tmp_path):
    t = images_of(with_views(tmp_path/'set', greys))
    assert ' '.join(t) == 'path label group sex age view manufacturer institution modality burned_in'
    assert t['view'].value_counts().to_dict() == dict(PA=3, AP=3, LL=3, unknown=3)
    assert sorted(t.age) == ['85', '86', '87', '88', '89', *['90+'] * 7]
    assert t.group.nunique() == 6 and set(t.institution) == {'Clinic of the Plain'}
    p = pack(t, size=32, quiet=True)
    assert p.rejects.reason.tolist() == ['modality: CT, and films are CR, DR, DX; to take it type --modalities CT']
    assert len(pack(images_of(tmp_path/'set', modalities=['ct']), size=32, quiet=True)) == 12
    nameless = film(next(iter(greys.values())))
    del nameless.Modality
    nameless.save_as(tmp_path/'set'/'COVID'/'nameless')
    assert len(images_of(tmp_path/'set').attrs['refused']) == 2
    assert len(images_of(tmp_path/'set', modalities=['CT', 'unknown']).attrs['refused']) == 0

def test_check_tells_what_headers_say(greys, tmp_path, capsys):
    with_views(tmp_path/'set', greys)
    words = ['check', str(tmp_path/'set'), '--size', '32', '--no-twins', '--quiet']
    main(words)
    said = capsys.readouterr().out
    for line in ('burned in: the headers of 1 film say', 'view: PA (3), AP (3), LL (3), unknown (2)',
                 'modality: CT, and', 'format: DICOM (11)', 'mode:   MONOCHROME2, 8 bits (11)', 'size:   96x96 (11)',
                 'group: known for 11 images'):
        assert line in said, said
    main([*words, '--projections', 'pa', 'ap', '--modalities', 'CT'])
    out, err = capsys.readouterr()
    assert 'view: PA (3), AP (3)' in out
    assert '6 of 12 images are of other views and left out: LL (3), unknown (3)' in err

def test_a_columns_views_count_as_well(tmp_path, greys):
    set_of(tmp_path/'set', greys, lambda g, p: Image.fromarray(g).save(p), '.png')
    table = images_of(tmp_path/'set')
    table['view'] = ['PA', 'lateral', ''] * 4
    with pytest.warns(UserWarning, match='8 of 12 images are of other views'):
        assert len(images_of(table, projections=['PA'])) == 4
    with pytest.raises(ValueError, match='projections=PA: nothing says how the films'):
        images_of(tmp_path/'set', projections=['PA'])
    with pytest.raises(ValueError, match=r'is RL \(--projections\): there are PA \(4\)'):
        images_of(table, projections=['RL'])

def test_a_csv_may_name_uids(greys, tmp_path):
    with_views(tmp_path/'set', greys)
    uids = {str(p): pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path/'set').rglob('film*')}
    for i, p in enumerate(uids):   # each its own
        ds = pydicom.dcmread(p)
        ds.SOPInstanceUID = uids[p] = f'{ROOT}.{i}.9'
        ds.save_as(p)
    label = {p: Path(p).parent.name for p in uids}
    for column in ('path', 'SOP Instance UID'):
        rows = [f'{u},{label[p]}' for p, u in uids.items()]
        (tmp_path/'set'/'labels.csv').write_text('\n'.join([f'{column},label', *rows]))
        t = images_of(tmp_path/'set'/'labels.csv')
        assert dict(zip(t.path, t.label)) == label and 'SOP Instance UID' not in t
    (tmp_path/'set'/'labels.csv').write_text('\n'.join(['path,label', *rows, f'{ROOT}.99,COVID']))
    with pytest.warns(UserWarning, match=r'1 row of .*labels.csv name SOP .* left out \(row 13\)') as said:
        assert len(images_of(tmp_path/'set'/'labels.csv')) == 12
    assert not any(SECRET.search(str(w.message).encode()) for w in said)
    files = [f'{os.path.relpath(p, tmp_path/"set")},{c}' for p, c in label.items()]
    (tmp_path/'set'/'labels.csv').write_text('\n'.join(['path,label', *files]))
    assert len(images_of(tmp_path/'set'/'labels.csv')) == 12

def test_a_disk_with_a_dicomdir_and_names_of_numbers(greys, tmp_path):
    "Names such as 1.2.840.17 have no ending, and none of them is another's mask"
    for i, (name, g) in enumerate(greys.items()):
        to = tmp_path/'disk'/name.split('-')[0]/f'1.2.840.{i}'
        to.parent.mkdir(parents=True, exist_ok=True)
        film(g, n=i).save_as(to)
    source = Path(pydicom.data.__file__).parent/'test_files'/'dicomdirtests'/'DICOMDIR'
    shutil.copy(source, tmp_path/'disk'/'COVID'/'DICOMDIR')
    shutil.copy(source, tmp_path/'disk'/'DICOMDIR')
    p = pack(images_of(tmp_path/'disk'), size=32, quiet=True)
    assert len(p) == 12 and p.rejects.reason.tolist() == ['no image: a DICOMDIR, which lists files']

def test_without_the_extra(greys, tmp_path, monkeypatch, capsys):
    set_of(tmp_path/'set', greys, LOSSLESS['explicit'])
    with zipfile.ZipFile(tmp_path/'set.zip', 'w') as z:
        for f in (tmp_path/'set').rglob('*.dcm'): z.write(f, f.relative_to(tmp_path))
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    for source in (tmp_path/'set', tmp_path/'set.zip'):
        with pytest.raises(RuntimeError, match=re.escape("pip install 'xray_xfer[dicom]'")): images_of(source)
    assert main(['check', str(tmp_path/'set')]) == 1
    assert "pip install 'xray_xfer[dicom]'" in capsys.readouterr().err
    assert "pip install 'xray_xfer[dicom]'" in decode(next((tmp_path/'set').rglob('*.dcm')), 32)

# Finished runs

def test_finished_runs_take_films_as_they_take_images(greys, tmp_path):
    "Another modality is a reject, what headers say is a subgroup, and the answer is that for the PNG"
    from xray_xfer.inference.elsewhere import external
    from xray_xfer.inference.stream import predict
    from xray_xfer.train import run
    draw(tmp_path/'drawn', n=80, size=96)
    r = run(images_of(tmp_path/'drawn'), 'resnet10t', 0, pretrained=False, size=64, epochs=1, bs=16, valid=.2, test=.3,
            out=tmp_path, quiet=True)
    films = set_of(tmp_path/'films', greys, lambda g, p: film(g, PatientSex='FM'[int(g.sum()) % 2]).save_as(p))
    pngs = set_of(tmp_path/'pngs', greys, lambda g, p: Image.fromarray(g).save(p), '.png')
    first = next(films.rglob('*.dcm'))
    film(next(iter(greys.values())), Modality='CT').save_as(first.with_name('zz.dcm'))
    a, b = predict(r.path, films, quiet=True), predict(r.path, pngs, quiet=True)
    assert [p.replace('.dcm', '.png') for p in a.path] == b.path.tolist()
    np.testing.assert_allclose(a.filter(regex='^prob_').to_numpy(), b.filter(regex='^prob_').to_numpy(), atol=.02)
    assert [x['reason'][:12] for x in a.attrs['rejects']] == ['modality: CT']
    found = external(r.path, films, twins=True, out=None, quiet=True).found
    assert found['rejects'] == 1 and found['images'] == len(greys) and 'sex' in found['alone']

# Who the patient is

def secrets_in(folder):
    "Files, and names of files, in which something is that was planted; the images given are not looked at"
    found = []
    for f in Path(folder).rglob('*'):
        if SECRET.search(os.fsencode(f.relative_to(folder))): found.append(f)
        elif f.is_file() and SECRET.search(f.read_bytes()): found.append(f)
    return found

def test_the_patient_gets_nowhere(tmp_path, monkeypatch, caplog, capfd, plain_figures):
    "From a folder, a zip and a CSV of UIDs: it is not in the run's folder, the cache, a log or on the screen"
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    logging.getLogger().setLevel(logging.DEBUG)
    source = with_views(tmp_path/'set', drawn(tmp_path/'drawn', 60))
    for i, f in enumerate(sorted(source.rglob('film*'))):
        ds = pydicom.dcmread(f)
        ds.SOPInstanceUID = f'{ROOT}.{i}.9'
        if i == 3: ds.PatientBirthDate = 'plantedbirth'   # no date: pydicom quotes it in a warning
        ds.save_as(f)
    hostile(source/'COVID')
    with zipfile.ZipFile(tmp_path/'archive.zip', 'w') as z:
        for f in source.rglob('*'):
            if f.is_file() and not f.is_symlink(): z.write(f, f.relative_to(source))
    films = sorted(source.rglob('film?*'))
    rows = [f'{pydicom.dcmread(f).SOPInstanceUID},{f.parent.name}' for f in films if f.suffix != '.png']
    (source/'labels.csv').write_text('\n'.join(['path,label', *rows, f'{ROOT}.99,COVID']))
    groups = []
    caplog.clear()   # of what writing these files has said
    capfd.readouterr()
    for i, images in enumerate((source, tmp_path/'archive.zip', source/'labels.csv')):
        exclude = () if i else ('labels.csv',)
        words = [str(images), '--size', '32', '--modalities', 'CT', '--quiet']
        if exclude: words += ['--exclude', *exclude]
        main(['check', *words, '--rejects', str(tmp_path/'out'/f'{i}.csv')])
        main(['run', *words, '--arch', 'resnet10t', '--pretrained', 'false', '--epochs', '1', '--bs', '4',
              '--valid', '.3', '--test', '.3', '--out', str(tmp_path/'out'), '--name', f'run{i}'])
        main(['predict', str(tmp_path/'out'/'run0'), str(images), '--quiet', '--out', str(tmp_path/'out'/f'p{i}.csv')])
        main(['external', str(tmp_path/'out'/'run0'), str(images), '--quiet', '--with-twins',
              '--out', str(tmp_path/'out'/f'external{i}')])
        groups.append(set(images_of(images, modalities=['CT'], exclude=exclude).group.dropna()))
    assert len(groups[0]) > 3 and groups[0] >= groups[2] and groups[0] == groups[1]   # the same codes in each
    said = capfd.readouterr()
    assert (tmp_path/'out'/'run0'/'report.html').is_file() and (tmp_path/'out'/'run2'/'predictions.csv').is_file()
    assert (tmp_path/'out'/'p2.csv').is_file() and (tmp_path/'out'/'external0'/'report.html').is_file()
    assert secrets_in(tmp_path/'out') == [] and secrets_in(tmp_path/'cache') == []
    texts = [said.out, said.err, *(r.getMessage() for r in caplog.records)]
    assert not [t for t in texts if SECRET.search(t.encode())]
    written = [f for f in (tmp_path/'out').rglob('*') if f.is_file()]
    assert key_file().read_bytes().strip() not in b''.join(f.read_bytes() for f in written)

def test_names_of_files_that_tell_are_named_by_number_alone(greys, tmp_path):
    folder = set_of(tmp_path/'set', greys, LOSSLESS['explicit'])
    film(next(iter(greys.values())), n=5).save_as(folder/'COVID'/'plantedid-5.dcm')
    with pytest.warns(UserWarning, match='1 path of .* hold the name, ID or UID of their own header') as said:
        images_of(folder)
    assert not any(SECRET.search(str(w.message).encode()) for w in said)

def test_the_key_is_made_once(tmp_path):
    "By several processes at the same time; nobody else can read it"
    code = 'from xray_xfer.data.header import patient_key; print(patient_key().hex())'
    made = [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE) for _ in range(4)]
    keys = {p.communicate()[0] for p in made}
    assert len(keys) == 1 and key_file().stat().st_mode & 0o777 == 0o600
    assert [f.name for f in key_file().parent.iterdir()] == ['patient.key']

def test_a_key_that_others_can_read_is_narrowed(tmp_path):
    from xray_xfer.data.header import patient_key
    patient_key()
    key_file().chmod(0o644)
    with pytest.warns(UserWarning, match='could be read by others'): patient_key()
    assert key_file().stat().st_mode & 0o777 == 0o600

def test_a_place_that_cannot_be_written_names_the_setting(tmp_path, monkeypatch):
    from xray_xfer.core.files import PlaceError
    from xray_xfer.data.header import patient_key
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path/'file'))
    with pytest.raises(PlaceError, match='set XDG_CONFIG_HOME'): patient_key()
