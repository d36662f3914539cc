"""Files that no server should fall over: `hostile()` gives (kind, name, bytes) of 200 and more, the same each time.
None is a picture; tests/test_serve.py and benchmarks/serve_uploads.py send them."""
import gzip, io, random, struct, zipfile, zlib

import numpy as np
from PIL import Image

def film(kind='PNG', size=96):
    "A drawing as a file"
    picture = Image.radial_gradient('L').resize((size, size))
    picture.save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

def png(w, h, rows=bytes(99), more=b'', depth=8, colour=0):
    "A PNG that claims a size, whatever its rows hold"
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + more + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')

def dicom(syntax='1.2.840.10008.1.2.1', **said):
    "A DICOM film, but for what is said otherwise; None leaves an element out"
    from pydicom.dataset import Dataset, FileMetaDataset
    ds = Dataset()
    ds.preamble, ds.file_meta = bytes(128), FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    usual = dict(Modality='CR', PatientName='DOE^JOHN', Rows=8, Columns=8, SamplesPerPixel=1, BitsAllocated=8,
                 BitsStored=8, HighBit=7, PixelRepresentation=0, PhotometricInterpretation='MONOCHROME2',
                 PixelData=bytes(range(64)))
    for name, value in (usual | said).items():
        if value is not None: setattr(ds, name, value)
    if 'PixelData' in ds: ds['PixelData'].VR = 'OB'
    ds.save_as(buffer := io.BytesIO())
    return buffer.getvalue()

def _others():
    "{name: bytes} of what is something else"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, 'w') as z: z.writestr('../../evil.png', b'x' * 99)
    array = io.BytesIO()
    np.save(array, np.zeros(9))
    return dict(
        gif=film('GIF'), bmp=film('BMP'), tiff=film('TIFF'), webp=film('WEBP'), pdf=b'%PDF-1.7\n' + b'x' * 300,
        zip=zipped.getvalue(), gzip=gzip.compress(bytes(10**6)), npy=array.getvalue(),
        html=b'<html><script>alert(1)</script>',
        svg=b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        json=b'{"a": 1}',
        exe=b'MZ' + bytes(400), elf=b'\x7fELF' + bytes(400), pickle=b'\x80\x04cposix\nsystem\n(S"id"\ntR.',
        text=b'to do: ask',
        zeros=bytes(4000), ps=b'%!PS-Adobe\n(/etc/passwd) (r) file\n', jp2=b'\0\0\0\x0cjP  ' + bytes(200))

NAMES = ['<img src=x onerror=alert(1)>.png', '"><script>alert(1)</script>.jpg', '../../../../etc/passwd', '/dev/zero',
         'C:\\windows\\system32\\a.png', 'two\r\nSet-Cookie: a=b.png', 'nul\0.png', 'x' * 5000 + '.png',
         '%2e%2e%2fa.png', '\u202egnp.exe', 'a;rm -rf ~.png', '$(id).png', "'; drop table x;--.png", '.png',
         ' ', '', '..', 'con.dcm', '日本.png',
         '\ud800.png'.encode('utf-8', 'replace').decode()]

def hostile():
    "(kind, name, bytes) of each"
    random.seed(0)
    noise = random.randbytes
    for form, kind in (('PNG', 'png'), ('JPEG', 'jpg')):
        whole = film(form)
        for i in range(20): yield f'truncated {form}', f'{i}.{kind}', whole[:1 + len(whole) * i // 24]
    for i in range(10): yield 'noise after a PNG head', f'{i}.png', film()[:33] + noise(500)
    for i in range(10): yield 'noise after a JPEG head', f'{i}.jpg', film('JPEG')[:20] + noise(500)
    most = 2**31 - 1
    for w, h in ((60_000, 60_000), (most, 1), (1, most), (most, most), (65_536, 2), (12_000, 12_000), (0, 5), (5, 0)):
        yield 'claims a huge size', f'{w}x{h}.png', png(w, h)
        yield 'claims a huge size', f'{w}x{h}, 16 bit.png', png(w, h, depth=16, colour=6)
    for w, h in ((500, 500), (9_000, 9_000)): yield 'too few rows', f'{w}.png', png(w, h)
    for name in (b'zTXt', b'iTXt', b'iCCP'):
        before = b'a\0\1\0\0\0' if name == b'iTXt' else b'a\0\0'
        bomb = before + zlib.compress(bytes(20 * 10**6), 1)
        yield 'inflates beyond measure', f'{name.decode()}.png', png(8, 8, b'', chunk(name, bomb))
    for kind, data in _others().items():
        for end in ('.png', '.jpg', '.dcm', ''): yield 'another kind of file', f'{kind}{end}', data
    for before in (b'%PDF-1.4\n', b'GIF89a', b'<html>', b'PK\3\4', b'#!/bin/sh\n'):
        yield 'polyglot', 'both.png', before + film()
        yield 'polyglot', 'both.jpg', before + film('JPEG')
    for name in NAMES: yield 'hostile name', name, b'<html>'
    for name in ('a.png', 'a.jpg', 'a.dcm', 'a'): yield 'zero bytes', name, b''
    yield from _dicoms(noise)

def _dicoms(noise):
    mark = bytes(128) + b'DICM'
    for i in range(15): yield 'DICOM of noise', f'{i}.dcm', mark + noise(50 * i)
    for i in range(5): yield 'called DICOM', f'{i}.dcm', noise(400)
    whole = dicom()
    for i in range(1, 9): yield 'truncated DICOM', f'{i}.dcm', whole[:len(whole) * i // 9]
    odd = dict(ct=dict(Modality='CT'), frames=dict(NumberOfFrames=200), huge=dict(Rows=65_535, Columns=65_535),
               rows=dict(Rows=4_000, Columns=4_000), none=dict(PixelData=None), zero=dict(Rows=0),
               bits=dict(BitsAllocated=64), colour=dict(SamplesPerPixel=3, PhotometricInterpretation='RGB'),
               raw=dict(PresentationIntentType='FOR PROCESSING'))
    for name, said in odd.items(): yield 'DICOM that is no film', f'{name}.dcm', dicom(**said)
    yield 'DICOM under another name', 'film.png', whole
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabyte = deflated.compress(bytes(2**20)) + deflated.flush(zlib.Z_FULL_FLUSH)   # a block that may be repeated
    meta = dicom('1.2.840.10008.1.2.1.99', PixelData=bytes(8)).split(b'\x08\0', 1)[0]
    yield 'inflates beyond measure', 'deflated.dcm', meta + megabyte * 300 + deflated.flush()
