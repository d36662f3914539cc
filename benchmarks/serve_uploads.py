"""What the page of `xray_xfer serve` answers to hostile uploads, by kind: serve_uploads.md.

    python benchmarks/serve_uploads.py RUN      # a run folder, such as one of `xray_xfer demo`

Each file goes over HTTP to uvicorn, to the real worker and, if it were a picture, to the networks; after each there
is a good one, which must be answered."""
import json, sys, urllib.error, urllib.request
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))
from uploads import film, hostile

from xray_xfer.core.files import replacing
from xray_xfer.inference.ensemble import load_ensemble
from xray_xfer.serving.api import application
from xray_xfer.serving.reply import Responder
from xray_xfer.serving.server import bound, in_background
from xray_xfer.serving.worker import Workers

def sent(address, name, data):
    "Status and sentence of an answer"
    headers = {'X-File-Name': quote(name.encode('utf-8', 'replace'))}
    try: got = urllib.request.urlopen(urllib.request.Request(f'{address}/api/predict', data, headers), timeout=60)
    except urllib.error.HTTPError as e: got = e
    said = json.load(got)
    return got.status, said.get('error', '')

def main(run):
    workers, sock = Workers(), bound('127.0.0.1', 0)
    respond = Responder(load_ensemble(run, 'cpu'), workers)
    app = application(respond, respond.about, {f'127.0.0.1:{sock.getsockname()[1]}'}, '')
    kinds, good = defaultdict(list), film()
    with in_background(app, sock, workers) as address:
        before = set(workers.all)
        for kind, name, data in hostile():
            kinds[kind].append(sent(address, name, data))
            if sent(address, 'good.png', good)[0] != 200: raise SystemExit(f'gone after {kind}: {name[:60]!r}')
        replaced = len(before - set(workers.all))
    n = sum(map(len, kinds.values()))
    rows = ['| what | files | status | the sentence that most of them get |', '|---|---:|---|---|']
    for kind, answers in kinds.items():
        status = ', '.join(f'{s} ({c})' if len({a for a, _ in answers}) > 1 else str(s) for s, c in
                           sorted(Counter(s for s, _ in answers).items()))
        [(most, _)] = Counter(said for _, said in answers).most_common(1)
        cell = most.replace('|', '\\|').replace('<', '&lt;')
        rows.append(f'| {kind} | {len(answers)} | {status} | {cell} |')
    text = ['# Hostile uploads', '', f'`python benchmarks/serve_uploads.py RUN`: {n} files that are no pictures '
            '(`tools/uploads.py`), each sent to `xray_xfer serve`, with a good file after each, which was answered '
            f'every time. Workers that had to be replaced: {replaced}.', '', *rows, '']
    with replacing(ROOT/'benchmarks'/'serve_uploads.md') as tmp: tmp.write_text('\n'.join(text), encoding='utf-8')
    if bad := [(k, s) for k, answers in kinds.items() for s, said in answers if not (400 <= s < 500 and said)]:
        raise SystemExit(f'not refused: {bad}')
    print('\n'.join(text))

if __name__ == '__main__': main(*sys.argv[1:])
