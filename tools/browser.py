"Headless Chromium for the tests of pages: the DevTools protocol over a pipe, with the standard library alone."
import base64, json, os, shutil, signal, subprocess, tempfile, time
from pathlib import Path
from select import select

def chromium():
    "Path of a Chromium or Chrome; None where there is none"
    named = os.environ.get('XRAY_XFER_CHROMIUM')
    return (
        shutil.which(named)
        if named
        else next(
            filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))),
            None,
        )
    )

class Browser:
    "A page: `open` it at a width, `look` at what it measures, `shot` it"
    def __enter__(self):
        self.profile = tempfile.mkdtemp()
        child_in, self.to = os.pipe()
        self.fro, child_out = os.pipe()
        def wire():   # Chromium reads commands from 3 and writes answers to 4
            a, b = os.dup(child_in), os.dup(child_out)
            os.dup2(a, 3); os.dup2(b, 4)
        args = [
            chromium(),
            '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
            '--hide-scrollbars', '--disable-background-networking', '--force-color-profile=srgb',
            f'--user-data-dir={self.profile}',
            '--remote-debugging-pipe',
            'about:blank',
        ]
        self.process = subprocess.Popen(
            args, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(child_in); os.close(child_out)
        self.buffer, self.n, self.session, self.events = b'', 0, None, []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'): self.call(f'{domain}.enable')
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)   # its own session: this browser and its children, nobody else's
        self.process.wait()
        os.close(self.to); os.close(self.fro)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _message(self):
        while b'\0' not in self.buffer:
            if not select([self.fro], [], [], 60)[0]: raise TimeoutError('Chromium does not answer')
            got = os.read(self.fro, 1 << 20)
            if not got: raise ConnectionError('Chromium has ended')
            self.buffer += got
        raw, self.buffer = self.buffer.split(b'\0', 1)
        return json.loads(raw)

    def call(self, method, **params):
        self.n += 1
        message = dict(id=self.n, method=method, params=params) | (dict(sessionId=self.session) if self.session else {})
        data = json.dumps(message).encode() + b'\0'
        while data: data = data[os.write(self.to, data):]
        while True:
            m = self._message()
            if m.get('id') == self.n:
                if 'error' in m: raise RuntimeError(f"{method}: {m['error']}")
                return m['result']
            self.events.append(m)

    def open(self, path, width=1280, height=900, dark=False, paper=False):
        "Load a file or an address; `complaints` then holds what the console said, `requests` what was asked of the net"
        self.events = []
        self.call(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call(
            'Emulation.setEmulatedMedia',
            media='print' if paper else '',
            features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')],
        )
        address = str(path) if str(path).startswith('http://127.0.0.1') else Path(path).resolve().as_uri()
        self.call('Page.navigate', url=address)
        while not any(e.get('method') == 'Page.loadEventFired' for e in self.events):
            self.events.append(self._message())
        self.js("Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => 1)")

    def choose(self, selector, *files):
        "Give files to a field, as a person does who chooses them"
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(Path(f).resolve()) for f in files])

    def until(self, expression, seconds=60):
        "Wait until an expression is true"
        end = time.monotonic() + seconds
        while not self.js(expression):
            if time.monotonic() > end: raise TimeoutError(f'never true: {expression}')
            time.sleep(.05)

    @property
    def complaints(self):
        return [
            e['params']
            for e in self.events
            if e.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded')
            or (e.get('method') == 'Runtime.consoleAPICalled' and e['params']['type'] in ('error', 'warning'))
        ]

    @property
    def requests(self):
        urls = [e['params']['request']['url'] for e in self.events if e.get('method') == 'Network.requestWillBeSent']
        return [u for u in urls if not u.startswith(('file:', 'data:'))]

    def js(self, expression):
        r = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in r: raise RuntimeError(r['exceptionDetails'])
        return r['result'].get('value')

    def look(self):
        "Widths of window and page, images that show nothing or have no alt, what sticks out outside a scrolling frame"
        return self.js('''(() => {
          const w = document.documentElement.clientWidth, out = e => e.getBoundingClientRect().right > w + 1;
          return { window: w, page: document.documentElement.scrollWidth, images: document.images.length,
            broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
            mute: [...document.images].filter(i => !i.alt).length,
            sticking: [...document.querySelectorAll('body *')].filter(e => out(e) && !e.closest('.scroll, svg'))
              .map(e => e.tagName + '.' + e.className).slice(0, 5),
            headings: [...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1]),
            links: [...document.querySelectorAll('a:not([href^="/"])')]
              .filter(a => !document.querySelector(a.getAttribute('href'))).length } })()''')

    def shot(self, path, whole=True):
        "Write a PNG of the page"
        Path(path).write_bytes(
            base64.b64decode(self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data'])
        )

    def pdf(self, path):
        Path(path).write_bytes(base64.b64decode(self.call('Page.printToPDF', printBackground=True)['data']))
