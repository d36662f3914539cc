"""How long the page of `xray_xfer serve` takes when many ask at once, into serve_load.md; on a quiet machine.

    python benchmarks/serve_load.py RUN [REQUESTS] [ROUNDS]      # 50 at once, 5 times, with and without the heat map

Latency is what one of them waits, from its first byte to the end of its answer. The files are drawings of the demo."""
import os, sys, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np

from xray_xfer.core.files import replacing
from xray_xfer.core.machine import environment
from xray_xfer.data.table import images_of
from xray_xfer.inference.ensemble import load_ensemble
from xray_xfer.serving.api import application
from xray_xfer.serving.reply import Responder
from xray_xfer.serving.server import bound, in_background
from xray_xfer.serving.worker import Workers

ROOT = Path(__file__).resolve().parents[1]

def at_once(address, path, files):
    "Seconds of each of the answers to requests that start together"
    gate = Barrier(len(files))
    def ask(data):
        request = urllib.request.Request(f'{address}{path}', data)
        gate.wait()
        start = time.perf_counter()
        got = urllib.request.urlopen(request, timeout=300)
        got.read()
        return time.perf_counter() - start
    with ThreadPoolExecutor(len(files)) as pool: return list(pool.map(ask, files))

def main(run, n='50', rounds='5'):
    n, rounds = int(n), int(rounds)
    workers, sock = Workers(), bound('127.0.0.1', 0)
    respond = Responder(load_ensemble(run, 'cpu'), workers)
    app = application(respond, respond.about, {f'127.0.0.1:{sock.getsockname()[1]}'}, '')
    files = [Path(p).read_bytes() for p in images_of('demo').path[:400:400 // n][:n]]
    rows = ['| asked | alone, median | all at once: median | p95 | longest | images/s |',
            '|---|---:|---:|---:|---:|---:|']
    with in_background(app, sock, workers) as address:
        for path in ('/api/predict', '/api/predict?picture=1&heat_map=1'):
            alone = [at_once(address, path, files[i:i + 1])[0] for i in range(10)]
            found, start = [], time.perf_counter()
            for _ in range(rounds): found += at_once(address, path, files)
            rate = len(found) / (time.perf_counter() - start)
            said = [np.median(alone), np.median(found), np.quantile(found, .95), max(found)]
            cells = ' | '.join(f'{s:.2f} s' for s in said)
            rows.append(f'| `{path}` | {cells} | {rate:.1f} |')
    on = environment()
    by = on['versions']
    text = ['# Many at once', '',
            f'`python benchmarks/serve_load.py RUN {n} {rounds}`: {n} requests at once, {rounds} rounds; '
            f"{respond.about.runs[0]}; {on['device_name']}, {os.cpu_count()} cores, torch {by['torch']}, onnxruntime "
            f"{by['onnxruntime']}, {time.strftime('%d %B %Y')}. Senders and server share the machine.", '', *rows, '']
    with replacing(ROOT/'benchmarks'/'serve_load.md') as tmp: tmp.write_text('\n'.join(text), encoding='utf-8')
    print('\n'.join(text))

if __name__ == '__main__': main(*sys.argv[1:])
