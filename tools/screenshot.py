"""Pictures of pages, in Chromium: of `xray_xfer serve` with a drawing of the demo and what a run says of it, and of the
top of a report.

    xray_xfer demo
    python tools/screenshot.py demo_study/resnet10t_1 nbs/images/serve.png
    python tools/screenshot.py study/report.html nbs/images/report.png         # of nbs/tutorials/01_kaggle.ipynb"""
import io, sys
from pathlib import Path

from PIL import Image

from browser import Browser

def film_of(run):
    "A drawing of the test part of which the run is right"
    from xray_xfer.data.table import images_of
    from xray_xfer.evaluate.predictions import judged
    j = judged(run.predictions.of('test'))
    right = j[j.true == j.called].sort_values('margin', kind='stable')
    name = Path(right.path.iloc[len(right) // 2]).name
    return next(p for p in images_of('demo').path if Path(p).name == name)

def serve(folder, out):
    "The page of a run, with one answer"
    from xray_xfer.inference.ensemble import load_ensemble
    from xray_xfer.runs.folder import load_run
    from xray_xfer.serving.api import application
    from xray_xfer.serving.reply import Responder
    from xray_xfer.serving.server import bound, in_background
    from xray_xfer.serving.worker import Workers
    workers, sock = Workers(n=1), bound('127.0.0.1', 0)
    respond = Responder(load_ensemble(folder, 'cpu'), workers)
    app = application(respond, respond.about, {f'127.0.0.1:{sock.getsockname()[1]}'}, '')
    with in_background(app, sock, workers) as address, Browser() as b:
        b.open(address, width=1000, height=860)
        b.choose('#file', film_of(load_run(folder)))
        b.until("document.querySelectorAll('article.answer').length == 1")
        b.js("document.querySelector('footer').remove()")
        b.js("Promise.all([...document.images].map(i => i.decode())).then(() => new Promise(r => setTimeout(r, 500)))")
        b.shot(out)

def report(file, out):
    "What somebody sees who opens a report"
    with Browser() as b:
        b.open(file, width=1000, height=900)
        b.shot(out, whole=False)

def main(page, out):
    (report if page.endswith('.html') else serve)(page, out)
    # text stays sharp in 256 colours, and the colours of the map are spread
    few = Image.open(out).convert('RGB').quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(buffer := io.BytesIO(), 'PNG', optimize=True)
    Path(out).write_bytes(buffer.getvalue())
    print(f'{out}: {len(buffer.getvalue()):,} bytes')

if __name__ == '__main__': main(*sys.argv[1:])
