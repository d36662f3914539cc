"""The page of `xray_xfer serve`: the answer of predict, hostile uploads, whoever may not ask, slow and lying senders, a
real browser, and the command from its port to ctrl-C."""
import json, os, re, select, signal, socket, subprocess, sys, tempfile, threading, time
import urllib.error, urllib.parse, urllib.request
from pathlib import Path

import pytest

pytest.importorskip('fasthtml', reason="no FastHTML here: pip install 'xray_xfer[serve]'")
from starlette.testclient import TestClient

from browser import Browser, chromium
from uploads import NAMES, film, hostile
from xray_xfer.data.dicomfile import InMemory
from xray_xfer.serving import server
from xray_xfer.serving.api import application
from xray_xfer.serving.guard import HEADERS, Guard, Limits
from xray_xfer.serving.reply import About, Reply
from xray_xfer.serving.server import bound, in_background
from xray_xfer.serving.worker import Workers

FRAME = 64, 'squish', False
ABOUT = About(['run: resnet10t'], ['COVID', 'Normal'], dict(COVID=.3, Normal='none was filed'), 'it has none', True)

def answers_with(workers):
    "What answers as networks would, of files that are decoded for it"
    def respond(file, picture, heat):
        found = workers(file, {FRAME: {}})
        return Reply(file.name, 'COVID', dict(COVID=.8, Normal=.2), ABOUT.thresholds, None, 'no', .4, 'no', found.size,
                     no_map=ABOUT.no_map)
    return respond

@pytest.fixture(scope='module')
def workers():
    found = Workers(n=2, seconds=15)
    yield found
    found.close()

def page(workers, **kw):
    return TestClient(application(answers_with(workers), ABOUT, {'testserver'}, 'http://testserver', **kw))

@pytest.fixture
def empty(tmp_path, monkeypatch):
    "A folder that is both here and where temporary files go; nothing may be in it afterwards"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []

# Uploads

def test_hostile_uploads_end_in_a_sentence_and_the_others_go_on(workers, empty):
    client, n, fates = page(workers), 0, []
    for n, (kind, name, data) in enumerate(hostile(), 1):
        name = name.encode('utf-8', 'replace')
        got = client.post('/api/predict', content=data, headers={'X-File-Name': urllib.parse.quote(name)})
        fates.append((kind, name, got.status_code))
        assert 400 <= got.status_code < 500, (kind, name, got.text)
        said = got.json()['error']
        assert re.fullmatch(r'[^\n]{8,300}\.', said), (kind, name, said)
        assert not re.search(r'Traceback|File "|/tmp|\.py|DOE', said), said
        if not n % 40: assert client.post('/api/predict', content=film()).status_code == 200
    assert n >= 200 and client.post('/card', content=film()).status_code == 200

def test_hostile_names_are_text(workers):
    client = page(workers)
    for name in NAMES:
        quoted = urllib.parse.quote(name.encode('utf-8', 'replace'))
        got = client.post('/card', content=film(), headers={'X-File-Name': quoted})
        if got.status_code == 422: continue   # called DICOM
        assert got.status_code == 200 and not re.search(r'<(?!img src="data:)(script|img)|\n|\x00', got.text), name
        assert re.search(r'<h2 class="name" id="name-\w+">[^<]+</h2>', got.text), got.text

def test_five_megabytes_are_never_on_the_disk(workers, empty):
    "Through uvicorn, as a form and as a body; a picture with five megabytes of noise behind its end"
    large = film() + os.urandom(5 * 2**20)
    sock = bound('127.0.0.1', 0)
    port = sock.getsockname()[1]
    app = application(answers_with(workers), ABOUT, {f'127.0.0.1:{port}'}, '')
    seen, watching = set(), threading.Event()
    def open_files():   # one that is spooled has lost its name already
        for n in os.listdir('/proc/self/fd'):
            try: yield os.readlink(f'/proc/self/fd/{n}')
            except OSError: pass
    def watch():
        while not watching.is_set():
            seen.update(os.listdir(empty), (f for f in open_files() if str(empty) in f))
            time.sleep(.001)
    thread = threading.Thread(target=watch)
    thread.start()
    with in_background(app, sock) as address:
        got = urllib.request.urlopen(urllib.request.Request(f'{address}/api/predict', data=large, method='POST'))
        assert json.load(got)['called'] == 'COVID'
        field = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        form = field + large + b'\r\n--x--\r\n'
        kind = {'Content-Type': 'multipart/form-data; boundary=x'}
        got = urllib.request.urlopen(urllib.request.Request(f'{address}/answer', data=form, headers=kind))
        assert got.status == 200 and b'COVID' in got.read()
    watching.set()
    thread.join()
    assert seen == set()

@pytest.mark.slow
def test_a_decoder_that_hangs_or_crashes_ends_one_answer(empty):
    code = '''
import os, time
from xray_xfer.serving import worker
plain = worker.decode
def decode(file, *frame):
    if file.name == 'hangs': time.sleep(60)
    if file.name == 'crashes': os.abort()
    return plain(file, *frame)
worker.decode = decode
worker.work({memory}, {seconds})
'''
    frail = Workers(n=2, seconds=3, code=code)
    client, found = page(frail), {}
    def send(name):
        got = client.post('/api/predict', content=film(), headers={'X-File-Name': name})
        found[name] = got.status_code, got.json().get('error')
    try:
        send('first'), send('second')   # both processes have started
        threads = [threading.Thread(target=send, args=[n]) for n in ('hangs', 'fine')]
        for t in threads: t.start()
        threads[1].join(2.5)
        assert found['fine'] == (200, None), 'another file waited for the one that hangs'
        for t in threads: t.join()
        send('crashes'), send('after')
    finally: frail.close()
    assert found['hangs'] == (422, 'Damaged: it was not decoded within 3 s.')
    assert found['crashes'] == (422, 'Damaged: it has brought the decoder down.')
    assert found['after'] == (200, None)

# Who may ask, and how

def test_every_answer_keeps_to_itself(workers):
    client = page(workers)
    paths = '/', '/api', '/style.css', '/script.js', '/icon.svg', '/api/about', '/none', '/../x'
    told = [client.get(p) for p in paths]
    told += [client.post('/card', content=film()), client.post('/card'), client.post('/answer'),
             client.options('/api/predict'), client.post('/'), client.put('/api/predict'),
             client.get('/', headers={'Host': 'attacker.example'})]
    for got in told:
        assert {k: got.headers[k] for k in HEADERS} == HEADERS
        assert not [k for k in got.headers if k in ('set-cookie', 'server') or k.startswith('access-control')]
        assert 'Traceback' not in got.text and '/xray_xfer/' not in got.text
        for link in re.findall(r'(?:src|href|action)="([^"]*)"', got.text): assert link.startswith(('/', 'data:')), link
    assert [g.status_code for g in told[-4:]] == [405, 405, 405, 421]
    assert "default-src 'self'" in HEADERS['content-security-policy']

def test_no_session_and_no_secret_file(workers, empty): assert page(workers).get('/').cookies == {}

@pytest.mark.parametrize('headers, status', [
    ({}, 200), ({'Origin': 'http://testserver'}, 200), ({'Origin': 'null', 'Sec-Fetch-Site': 'same-origin'}, 200),
    ({'Origin': 'https://attacker.example'}, 403), ({'Origin': 'http://testserver.attacker.example'}, 403),
    ({'Origin': 'null'}, 403), ({'Sec-Fetch-Site': 'cross-site'}, 403), ({'Sec-Fetch-Site': 'same-site'}, 403),
    ({'Host': 'attacker.example'}, 421), ({'Host': 'testserver:81'}, 421),
    ({'Host': 'testserver@attacker.example'}, 421)])
def test_another_page_may_not_ask(workers, headers, status):
    assert page(workers).post('/api/predict', content=film(), headers=headers).status_code == status

def test_the_token_is_wanted_everywhere(workers):
    client = page(workers, token='correct horse battery')
    right = {'Authorization': 'Bearer correct horse battery'}
    for path in ('/api/predict', '/card'):
        assert client.post(path, content=film(), headers=right).status_code == 200
        for wrong in ({}, {'Authorization': 'Bearer correct horse batterz'}, {'Authorization': 'correct horse battery'},
                      {'Cookie': 'token=correct horse battery'}):
            assert client.post(path, content=film(), headers=wrong).status_code == 401
        assert client.post(f'{path}?token=correct horse battery', content=film()).status_code == 401
    assert client.get('/api/about').status_code == 401 and 'resnet10t' not in client.get('/').text
    for given, status in (('', 401), ('correct horse battery', 200), ('ü', 401)):
        got = client.post('/answer', files=dict(file=('a.png', film())), data=dict(token=given))
        assert got.status_code == status and ('resnet10t' in got.text) is False

# On the wire

async def counts(scope, receive, send):
    body = (await receive())['body']
    await send(dict(type='http.response.start', status=200, headers=[]))
    await send(dict(type='http.response.body', body=f'{len(body)} bytes'.encode()))

@pytest.fixture
def wire():
    "Sends bytes as they are, in pieces, and gives all that comes back"
    sock = bound('127.0.0.1', 0)
    port = sock.getsockname()[1]
    limits = Limits(body=10_000, held=50_000, requests=3, idle=.4, whole=1.5)
    def send(*pieces, pause=0., wait=8.):
        with socket.create_connection(('127.0.0.1', port)) as s:
            s.settimeout(wait)
            got = b''
            try:
                for p in pieces:
                    s.sendall(p.replace(b'HERE', b'127.0.0.1:%d' % port))
                    if select.select([s], [], [], pause)[0]: break   # an answer, in the middle of the request
                while part := s.recv(65_536): got += part
            except ConnectionError: pass
            return got.decode()
    with in_background(Guard(counts, {f'127.0.0.1:{port}'}, limits=limits), sock): yield send

POST = b'POST /api/predict HTTP/1.1\r\nHost: HERE\r\nConnection: close\r\n'

def test_bodies_are_counted_whatever_they_claim(wire):
    assert '5 bytes' in wire(POST + b'Content-Length: 5\r\n\r\nabcde')
    assert '413' in wire(POST + b'Content-Length: 20000\r\n\r\n', b'x' * 20_000)
    assert '413' in wire(POST + b'Content-Length: 99999999999\r\n\r\n')[:20]
    assert '413' in wire(POST + b'Content-Length: 20000\r\nExpect: 100-continue\r\n\r\n')[:20]
    chunks = [b'1000\r\n' + b'x' * 4096 + b'\r\n'] * 5
    assert '413' in wire(POST + b'Transfer-Encoding: chunked\r\n\r\n', *chunks, b'0\r\n\r\n')[:20]
    assert '8192 bytes' in wire(POST + b'Transfer-Encoding: chunked\r\n\r\n', *chunks[:2], b'0\r\n\r\n')
    two = b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\nabcde'
    assert '400' in wire(POST + two)[:20]

def test_slow_senders_are_cut_off(wire, monkeypatch):
    monkeypatch.setattr(server, '_ASKS_WITHIN', .5)
    assert '408' in wire(POST + b'Content-Length: 5\r\n\r\nab')[:20]
    assert '408' in wire(POST + b'Content-Length: 50\r\n\r\n', *[b'x'] * 10, pause=.2)[:20]
    started = time.monotonic()
    assert wire(*[b'P'] * 8, pause=.2) == ''   # never gets as far as its headers
    assert wire(b'') == '' and time.monotonic() - started < 6

def test_too_many_at_once_are_told_to_come_again(wire):
    found, slow = [], (POST + b'Content-Length: 4\r\n\r\n', b'a', b'b', b'c', b'd')
    threads = [threading.Thread(target=lambda: found.append(wire(*slow, pause=.25))) for _ in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert sorted(f.split()[1] for f in found) == ['200'] * 3 + ['503'] * 3
    assert all('retry-after: 5' in f for f in found if ' 503 ' in f)
    assert '5 bytes' in wire(POST + b'Content-Length: 5\r\n\r\nabcde')

def test_a_taken_port_is_named():
    with bound('127.0.0.1', 0) as taken:
        port = taken.getsockname()[1]
        said = f'port {port} of 127.0.0.1 cannot be taken .*--port {port + 1}'
        with pytest.raises(ValueError, match=said): bound('127.0.0.1', port)

# Real networks

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    from xray_xfer.data.table import images_of
    from xray_xfer.train import run
    table = images_of('demo').groupby('label').head(16).reset_index(drop=True)
    return run(table, 'resnet10t', 1, pretrained=False, size=64, epochs=1, head_epochs=0, bs=16, quiet=True,
               out=tmp_path_factory.mktemp('runs')).path

@pytest.fixture(scope='module')
def real(trained, workers):
    from xray_xfer.inference.ensemble import load_ensemble
    from xray_xfer.serving.reply import Responder
    return Responder(load_ensemble(trained, 'cpu'), workers)

def films(n):
    from xray_xfer.data.table import images_of
    return images_of('demo').path[::400 // n][:n].tolist()

def test_the_answer_is_that_of_predict(trained, real):
    from xray_xfer.inference.choose import thresholds_for
    from xray_xfer.inference.stream import predict
    client = TestClient(application(real, real.about, {'testserver'}, ''))
    paths = films(6)
    there = [c for c, t in real.about.thresholds.items() if not isinstance(t, str)]
    assert there
    rows = predict(trained, paths, threshold=there, quiet=True)
    for path, row in zip(paths, rows.to_dict('records'), strict=True):
        got = client.post('/api/predict?picture=1&heat_map=1', content=Path(path).read_bytes()).json()
        assert [got['called'], got['unlike'], got['seen']] == [row['called'], row['unlike'], row['seen']]
        assert got['probabilities'] == pytest.approx({c: row[f'prob_{c}'] for c in got['probabilities']}, abs=1e-6)
        assert got['further'] == pytest.approx(row['further'], abs=1e-6)
        for c, at in got['thresholds'].items():
            if c not in there: continue
            assert at['reached'] == (row[f'is_{c}'] == 'yes')
            assert thresholds_for(real.ensemble, c) == {c: at['threshold']}
        assert got['picture'] != got['heat_map'] and str(trained) not in json.dumps(got)

def test_without_maps_all_else_works(trained, workers, monkeypatch):
    from xray_xfer.inference.ensemble import load_ensemble
    from xray_xfer.serving import reply
    def none(run, device): raise ValueError(f'{run.path}: no maps') from ValueError('Grad-CAM is not defined for it')
    monkeypatch.setattr(reply, 'Explainer', none)
    bare = reply.Responder(load_ensemble(trained, 'cpu'), workers)
    said = TestClient(application(bare, bare.about, {'testserver'}, ''))
    got = said.post('/card', content=film())
    assert got.status_code == 200 and 'No heat map: Grad-CAM is not defined for it.' in got.text
    assert 'No heat maps: Grad-CAM is not defined for it.' in said.get('/').text

no_browser = 'no Chromium or Chrome on this machine: apt-get install chromium (or set XRAY_XFER_CHROMIUM)'

def test_an_exported_file_answers_as_its_run(trained, real, workers, tmp_path):
    from xray_xfer.inference.ensemble import load_ensemble
    from xray_xfer.inference.handing import export
    from xray_xfer.serving.reply import Responder
    file = export(trained, tmp_path/'small.onnx', data='demo').path
    served = Responder(load_ensemble(file, 'cpu'), workers)
    assert 'gradient' in served.about.no_map and str(tmp_path) not in json.dumps(served.about.as_json())
    sent = InMemory('film.png', Path(films(1)[0]).read_bytes())
    ours, its = real(sent), served(sent, picture=True, heat=True)
    assert max(abs(ours.probs[c] - its.probs[c]) for c in ours.probs) < 1e-4 and its.thresholds == ours.thresholds
    assert (its.seen, its.unlike, its.heat) == ('unknown', 'unknown', '') and its.no_map

@pytest.fixture
def address(real):
    sock = bound('127.0.0.1', 0)
    app = application(real, real.about, {f'127.0.0.1:{sock.getsockname()[1]}'}, '')
    with in_background(app, sock) as found: yield found

@pytest.mark.skipif(chromium() is None, reason=no_browser)
def test_in_a_browser(address, tmp_path):
    [path], notes = films(1), tmp_path/'<img src=x>.png'
    notes.write_bytes(b'<html>')
    with Browser() as b:
        for width, dark in ((1280, False), (390, True)):
            b.open(address, width=width, dark=dark)
            b.choose('#file', path)
            b.until("document.querySelectorAll('article.answer').length == 1")
            assert b.js("document.getElementById('status').textContent").startswith(f'{Path(path).name}: most probable')
            assert not b.complaints
            b.js("document.querySelector('.toggle').click()")   # the map off, and on
            b.until("getComputedStyle(document.querySelector('.heat')).opacity == '0'")
            b.js("document.querySelector('.switch').click()")
            b.until("getComputedStyle(document.querySelector('.heat')).opacity == '1'")
            b.choose('#file', notes, path)
            b.until("document.querySelectorAll('article.answer').length == 2")
            assert b.js("document.querySelector('article.error').textContent").startswith('<img src=x>.pngNot a PNG')
            # Chromium itself logs that an answer was a 422
            assert [c for c in b.complaints if '422' not in json.dumps(c)] == []
            looked = b.look()
            assert looked['page'] <= looked['window'] == width and looked['sticking'] == []
            assert looked['images'] == 4 and looked['broken'] == looked['mute'] == looked['links'] == 0
            assert [r for r in b.requests if not r.startswith(address)] == []
            assert b.js('document.cookie + localStorage.length + sessionStorage.length') == '00'
            b.js("document.getElementById('clear').click()")
            assert b.js("document.querySelectorAll('article').length") == 0
            b.open(f'{address}/api', width=width, dark=dark)
            assert b.look()['sticking'] == [] and not b.complaints

@pytest.mark.skipif(chromium() is None, reason=no_browser)
def test_in_a_browser_without_javascript(address):
    [path] = films(1)
    with Browser() as b:
        b.call('Emulation.setScriptExecutionDisabled', value=True)
        b.open(address, width=390)
        b.choose('#file', path)
        b.events = []
        x, y = b.js("(r => [r.x + r.width / 2, r.y + r.height / 2])"
                    "(document.querySelector('button[type=submit]').getBoundingClientRect())")
        for kind in ('mousePressed', 'mouseReleased'):
            b.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)
        b.until("document.querySelectorAll('article.answer').length == 1")
        assert 'Without JavaScript' in b.js('document.body.innerText') and b.look()['broken'] == 0

@pytest.mark.skipif(chromium() is None, reason=no_browser)
def test_a_browser_logs_in(real, tmp_path):
    sock, token = bound('127.0.0.1', 0), 'correct horse battery'
    app = application(real, real.about, {f'127.0.0.1:{sock.getsockname()[1]}'}, '', token)
    with in_background(app, sock) as address, Browser() as b:
        b.open(address)
        assert b.js("!document.getElementById('login').hidden && document.getElementById('runs').children.length == 0")
        def log_in(word):
            b.js(f"document.getElementById('token').value = '{word}'; document.querySelector('#login button').click()")
        log_in('wrong')
        b.until("document.getElementById('refused').textContent.includes('not the token')")
        log_in(token)
        b.until("document.getElementById('login').hidden && document.getElementById('runs').children.length == 1")
        b.choose('#file', films(1)[0])
        b.until("document.querySelectorAll('article.answer').length == 1")
        assert token not in b.js('location.href + document.cookie') and not [r for r in b.requests if 'correct' in r]

# The command

def started(*words, **kw):
    home = str(Path(__file__).resolve().parents[1])
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([home, *(p for p in sys.path if p)]))
    code = 'import sys; from xray_xfer.cli import main; sys.exit(main())'
    # a shell's background jobs ignore SIGINT, and hand that on
    return subprocess.Popen([sys.executable, '-c', code, 'serve', *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=env,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **kw)

def lines_until(process, word, seconds=120):
    found, end = '', time.monotonic() + seconds
    while word not in found:
        assert time.monotonic() < end and process.poll() is None, found
        if select.select([process.stdout], [], [], .2)[0]: found += os.read(process.stdout.fileno(), 4096).decode()
    return found

def children(pid):
    "Processes that a process has started"
    stats = [Path(f'/proc/{p}/stat') for p in os.listdir('/proc') if p.isdecimal()]
    found = []
    for s in stats:
        try: fields = s.read_text().rpartition(')')[2].split()
        except OSError: continue
        if int(fields[1]) == pid: found.append(int(s.parent.name))
    return found

def test_the_command_from_its_port_to_ctrl_c(trained, tmp_path, capsys):
    from xray_xfer.cli import main
    process = started(trained, '--port', '0', cwd=tmp_path)
    try:
        said = lines_until(process, 'Ctrl-C')
        address = re.search(r'The page: (\S+)', said)[1]
        assert 'Not for clinical use' in said and 'token' not in said
        got = urllib.request.urlopen(urllib.request.Request(f'{address}/api/predict', data=film()))
        assert json.load(got)['called']
        mine = children(process.pid)
        assert mine
        port = address.rpartition(':')[2]
        assert main(['serve', str(trained), '--port', port]) == 1   # another finds it taken
        err = capsys.readouterr().err
        assert f'port {port} of 127.0.0.1 cannot be taken' in err and f'--port {int(port) + 1}' in err
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally: process.kill()
    assert process.returncode == 130 and 'no longer served' in err and 'Traceback' not in err
    assert [p for p in mine if os.path.exists(f'/proc/{p}')] == []
    bound('127.0.0.1', int(port)).close()
    assert list(tmp_path.iterdir()) == []

@pytest.mark.slow
def test_other_machines_need_the_token_that_is_printed(trained, tmp_path):
    process = started(trained, '--port', '0', '--host', '0.0.0.0', cwd=tmp_path)
    try:
        said = lines_until(process, 'Ctrl-C')
        token, port = re.search(r'Its token: (\S{32})', said)[1], re.search(r'The page: \S+:(\d+)', said)[1]
        assert 'unencrypted' in said
        def ask(**headers):
            request = urllib.request.Request(f'http://127.0.0.1:{port}/api/predict', data=film(), headers=headers)
            try: return urllib.request.urlopen(request).status
            except urllib.error.HTTPError as e: return e.code
        assert (ask(), ask(Authorization='Bearer wrong'), ask(Authorization=f'Bearer {token}')) == (401, 401, 200)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    finally: process.kill()
    assert process.returncode == 130 and token not in err
