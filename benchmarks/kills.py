"""What is left when a study is killed, interrupted, or runs out of disk, at any moment.

    python benchmarks/kills.py [--kills 200] [--seed 0] [--parts kills aimed signals disk readonly clock]

  kills     a study is killed (SIGKILL) at a random moment, started again, killed again, until it gets to its end
  aimed     a study is killed within each of what takes so little time that a random moment seldom meets it;
            what is written waits 50 ms before it gets its name
  signals   killed as in `kills`, with SIGINT, SIGTERM and SIGHUP in turn
  disk      the disk of the run folders, or of the cache, is filled up by somebody else; then there is room
  readonly  the cache may only be read, first empty, then with all that is needed
  clock     a study is killed, and the clock is set back by two days before it goes on

After each blow every file that bears its final name is looked at: it has to be whole. After each study nothing may lie
about that is not its own, and its files have to be, byte for byte, those of a study that nobody disturbed. `disk` and
`readonly` mount file systems of their own and need root on Linux.
Writes benchmarks/kills.json and .md; parts that are not asked for stay there as they were."""
import argparse, json, os, random, shutil, signal, subprocess, sys, tempfile, time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
TOLD = 'timings.json', 'environment.json', 'report.html', 'MODEL_CARD.md', 'runs.csv'   # when, where and how long
WORDS = ['--archs', 'resnet10t', '--depths', '0', '2', '--pretrained', 'false', '--epochs', '3',
         '--size', '64', '--bs', '16', '--checkpoint-every', '0', '--device', 'cpu']

class Study:
    "A study of one folder of drawings, in folders of its own"
    def __init__(self, films, place):
        self.films, self.place = films, Path(place)
        self.out, self.cache = self.place/'out', self.place/'cache'

    def start(self, late=0.):
        "A process that runs it; forked, so that it need not import PyTorch again. Renames come `late` by seconds"
        self.place.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid: return pid
        code = 70
        try:
            os.setsid()
            log = os.open(self.place/'log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ['XRAY_XFER_CACHE'] = str(self.cache)
            rename = os.replace
            if late: os.replace = lambda a, b: (time.sleep(late), rename(a, b))
            from xray_xfer.cli import main
            code = main(['study', str(self.films), *WORDS, '--out', str(self.out)])
        finally: os._exit(code or 0)

    def to_the_end(self):
        "Run it, and say how it ended"
        return os.waitstatus_to_exitcode(os.waitpid(self.start(), 0)[1])

    def said(self):
        with suppress(OSError): return (self.place/'log').read_text(errors='replace')
        return ''

def wait(pid, seconds):
    "The exit code of a process, or None where it still runs after so many seconds"
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(min(.005, seconds))

def content(study):
    "Every file under its final name: run folders and tables, and of the cache what is computed"
    found = {}
    for root in (study.out, study.cache):
        for p in sorted(root.rglob('*')):
            parts = p.relative_to(root).parts
            if not p.is_file() or any(x.startswith('.') for x in parts) or p.name in TOLD: continue
            if root == study.cache and p.suffix != '.npy': continue
            found[f'{root.name}/{"/".join(parts)}'] = p
    return found

def leftovers(study):
    "What is neither a result nor a part of the cache"
    return sorted(str(p.relative_to(study.place)) for root in (study.out, study.cache) for p in root.rglob('.*'))

def different(study, whole, all_of_it):
    "Names of files that are not what an undisturbed study has"
    mine = content(study)
    odd = [k for k, p in mine.items() if k not in whole or p.read_bytes() != whole[k]]
    # the list of runs stands there before the runs, and the table after each new start
    odd = [k for k in odd if all_of_it or k.count('/') > 1]
    return odd + ([k for k in whole if k not in mine] if all_of_it else [])

def phase(study):
    "What a study was doing, by what it has left half-done"
    parts = [p for root in (study.out, study.cache) for p in root.rglob('.*') if p.exists()]
    names = ' '.join(str(p.relative_to(study.place)) for p in parts)
    for what, sign in dict(packing='cache/packs/.', twins='cache/twins/.', features='cache/features/.').items():
        if sign in names: return what   # what is half made, or the lock of who makes it
    if 'checkpoint.safetensors.' in names: return 'writing a checkpoint'
    if any(p.parent == study.out and p.name.endswith('.part') for p in parts): return 'filing a run'
    if any(p.parent.parent == study.out and p.name.endswith('.part') for p in parts): return 'writing a report'
    if 'unfinished' in names: return 'training, after a checkpoint'
    return 'between' if study.cache.exists() else 'beginning'

def blows(films, whole, usual, n, rng, signals):
    "Kill studies until `n` blows have fallen, and see what is left"
    fell, half, left, unlike, failed, resumed, studies, phases = 0, [], [], [], [], 0, 0, Counter()
    while fell < n:
        with tempfile.TemporaryDirectory() as d:
            study, studies, here = Study(films, d), studies + 1, 0
            while True:
                pid = study.start()
                # anywhere at first, then soon, so that early phases are met again; after eight it may come to its end
                late = 1e9 if fell >= n or here >= 8 else rng.uniform(0, .7 * usual / (1 + here / 4))
                code = wait(pid, late)
                if code is not None: break
                os.kill(pid, signals[fell % len(signals)])
                os.waitpid(pid, 0)
                phases[phase(study)] += 1
                fell, here = fell + 1, here + 1
                half += different(study, whole, all_of_it=False)
            if code: failed.append(study.said()[-300:].replace(str(study.place), 'STUDY'))
            resumed += study.said().count('goes on after epoch')
            left += leftovers(study)
            unlike += different(study, whole, all_of_it=True)
        print(f'{fell} blows in {studies} studies: {len(half)} half-written, {len(left)} left over, '
              f'{len(unlike)} other files, {len(failed)} errors', flush=True)
    return dict(blows=fell, studies=studies, resumed=resumed, phases=dict(phases.most_common()), half_written=half,
                left_over=left, unlike=unlike, failed=failed)

AIMS = 'packing', 'twins', 'features', 'writing a checkpoint', 'filing a run', 'writing a report'

def _is_at(study, aim):
    "Whether it is in this phase now; of what takes milliseconds only the folders concerned are looked at"
    with suppress(FileNotFoundError):   # it is not there yet, or went while it was looked at
        if aim not in ('writing a checkpoint', 'writing a report'): return phase(study) == aim
        folders = study.out.glob('.*.unfinished' if aim == 'writing a checkpoint' else '[!.]*/')
        return any(name.endswith('.part') for f in folders for name in os.listdir(f))
    return False

def aimed(films, whole, rng, n=6):
    "Kill studies in each of the short phases, one after the other; a file that is whole waits 50 ms for its name"
    half, left, unlike, failed, missed, resumed, phases = [], [], [], [], 0, 0, Counter()
    for _ in range(n):
        with tempfile.TemporaryDirectory() as d:
            study = Study(films, d)
            for aim in AIMS:
                pid, code = study.start(late=.05), None
                while not _is_at(study, aim) and (code := wait(pid, .0002)) is None: pass
                if code is not None:
                    missed += 1
                    continue
                time.sleep(rng.uniform(0, .04))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                phases[phase(study)] += 1
                half += different(study, whole, all_of_it=False)
            if study.to_the_end(): failed.append(study.said()[-300:].replace(str(study.place), 'STUDY'))
            resumed += study.said().count('goes on after epoch')
            left += leftovers(study)
            unlike += different(study, whole, all_of_it=True)
        print(f'aimed: {dict(phases)}, {missed} missed, {half}, {left}, {unlike}, {failed}', flush=True)
    return dict(blows=phases.total(), missed=missed, studies=n, resumed=resumed, phases=dict(phases.most_common()),
                half_written=half, left_over=left, unlike=unlike, failed=failed)

@contextmanager
def mounted(place, *options):
    "A file system of its own"
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', *options, 'tmpfs', place], check=True)
    try: yield place
    finally: subprocess.run(['umount', '-l', place], check=True)

def again(place, *options): subprocess.run(['mount', '-o', ','.join(('remount', *options)), place], check=True)

def judged(study, code, whole, names):
    "How a refusal was: its code, whether its line names the place, and whether it is a line"
    lines = [x for x in study.said().splitlines() if 'error' in x.lower()]
    said = lines[-1] if lines else study.said()[-200:]
    return dict(code=code, said=said.replace(str(study.place), 'STUDY'), names=any(n in said for n in names),
                traceback='Traceback' in study.said(), half_written=different(study, whole, all_of_it=False))

def full_disk(films, whole, usual, rng, cases):
    "Full disks: from the start, or filled up by somebody else at a random moment; then with room"
    found = []
    for what, room in cases:
        with tempfile.TemporaryDirectory() as d:
            study = Study(films, d)
            place = study.out if what == 'out' else study.cache
            with mounted(place, '-o', 'size=400m'):
                early, late = (.1, .9) if what == 'out' else (0, .15)   # the cache is filled first
                pid, when = study.start(), rng.uniform(early, late) * usual
                code = wait(pid, when)
                if code is None:
                    free = shutil.disk_usage(place).free - room
                    with suppress(OSError), open(place/'filler', 'wb') as f:
                        for _ in range(max(0, free) // 65536): f.write(bytes(65536))
                    code = wait(pid, 1e9)
                names = [str(place)] + ['XRAY_XFER_CACHE'] * (what == 'cache')
                told = judged(study, code, whole, names) if code else {}
                (place/'filler').unlink(missing_ok=True)
                after = study.to_the_end()
                found.append(dict(disk=what, room=room, after=round(when, 1), first=told, then=after,
                                  left_over=leftovers(study), unlike=different(study, whole, all_of_it=True)))
        print(found[-1], flush=True)
    return found

def read_only(films, whole):
    "A cache that may only be read"
    found = []
    for filled in (False, True):
        with tempfile.TemporaryDirectory() as d:
            study = Study(films, d)
            with mounted(study.cache):
                if filled:
                    study.to_the_end()
                    shutil.rmtree(study.out)
                again(study.cache, 'ro')
                code = study.to_the_end()
                told = judged(study, code, whole, ['XRAY_XFER_CACHE']) if code else {}
                found.append(dict(filled=filled, code=code, told=told, unlike=different(study, whole, filled)))
        print(found[-1], flush=True)
    return found

def clock_back(films, whole, usual, rng, n=5):
    "What was written seems to be of the day after tomorrow"
    found = []
    for _ in range(n):
        with tempfile.TemporaryDirectory() as d:
            study = Study(films, d)
            pid = study.start()
            if wait(pid, rng.uniform(.2, .9) * usual) is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            later = time.time() + 2 * 86400
            for root in (study.out, study.cache):
                for p in root.rglob('*'): os.utime(p, (later, later))
            code = study.to_the_end()
            found.append(dict(code=code, left_over=leftovers(study), unlike=different(study, whole, all_of_it=True)))
        print(found[-1], flush=True)
    return found

PARTS = 'kills', 'aimed', 'signals', 'disk', 'readonly', 'clock'

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    a = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'
    import torch
    torch.set_num_threads(1)
    import xray_xfer.cli, xray_xfer.study   # noqa: F401, once for all that are forked
    from xray_xfer.core.machine import environment
    from xray_xfer.data.demo import draw
    rng, began = random.Random(a.seed), time.time()
    with tempfile.TemporaryDirectory() as d:
        films = Path(d)/'films'
        draw(films, n=96, size=64)
        undisturbed = Study(films, f'{d}/whole')
        start = time.monotonic()
        if undisturbed.to_the_end(): sys.exit(undisturbed.said())
        usual = time.monotonic() - start
        whole = {k: p.read_bytes() for k, p in content(undisturbed).items()}
        print(f'undisturbed: {usual:.1f} s, {len(whole)} files', flush=True)
        found = dict(date=str(date.today()), environment=environment(), seed=a.seed, seconds=usual, files=len(whole))
        if 'kills' in a.parts: found['kills'] = blows(films, whole, usual, a.kills, rng, [signal.SIGKILL])
        if 'aimed' in a.parts: found['aimed'] = aimed(films, whole, rng)
        if 'signals' in a.parts:
            mild = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
            found['signals'] = blows(films, whole, usual, max(3, a.kills // 5), rng, mild)
        if 'disk' in a.parts:
            cases = [(what, room) for what in ('out', 'cache') for room in (0, 0, 300_000, 3_000_000, 12_000_000)]
            found['disk'] = full_disk(films, whole, usual, rng, cases)
        if 'readonly' in a.parts: found['readonly'] = read_only(films, whole)
        if 'clock' in a.parts: found['clock'] = clock_back(films, whole, usual, rng)
    found['minutes'] = round((time.time() - began) / 60, 1)
    found = _with_earlier(found)
    (HERE/'kills.json').write_text(json.dumps(found, indent=1) + '\n')
    (HERE/'kills.md').write_text(text(found))

def _with_earlier(found):
    "What was found, and what an earlier call has filed of the other parts, with its date"
    try: filed = json.loads((HERE/'kills.json').read_text())
    except FileNotFoundError: return found
    kept = {part: filed[part] for part in PARTS if part in filed and part not in found}
    dates = {part: filed.get('earlier', {}).get(part, filed['date']) for part in kept}
    return found | kept | (dict(earlier=dates) if kept else {})

def _blows(title, f):
    counts = {'files under their final name that were not whole': 'half_written',
              'left over after the last start': 'left_over',
              'files unlike those of an undisturbed study': 'unlike',
              'studies that did not get to their end': 'failed'}
    rows = [f'## {title}\n', f'{f["blows"]} blows on {f["studies"]} studies; {f["resumed"]} times a run went on from a '
            'checkpoint.\n', '| where it fell | blows |', '|---|--:|']
    rows += [f'| {k} | {v} |' for k, v in f['phases'].items()]
    rows += ['', '| what was wrong | how many |', '|---|--:|']
    rows += [*(f'| {k} | {len(f[v])} |' for k, v in counts.items()), '']
    return rows

def text(f):
    "kills.md"
    e = f['environment']
    lines = [f'A study of two runs ({" ".join(WORDS)}) on 96 drawings: {f["files"]} files, {f["seconds"]:.1f} s '
             f'undisturbed; {e["device_name"]}, one thread, xray_xfer {e["versions"]["xray_xfer"]}, PyTorch '
             f'{e["versions"]["torch"]}, {f["date"]}; `python benchmarks/kills.py`, seed {f["seed"]}, '
             f'{f["minutes"]} minutes.\n']
    if f.get('earlier'):
        lines.append(f'Of earlier calls: {", ".join(f"{part} ({day})" for part, day in f["earlier"].items())}.\n')
    if 'kills' in f: lines += _blows('SIGKILL at a random moment', f['kills'])
    if 'aimed' in f: lines += _blows('SIGKILL within what takes little time, each rename held up by 50 ms', f['aimed'])
    if 'signals' in f: lines += _blows('SIGINT, SIGTERM, SIGHUP in turn', f['signals'])
    if 'disk' in f:
        head = 'disk', 'bytes left', 'first start', 'names the place', 'with room again', 'left over or unlike'
        lines += ['## A full disk, filled up by somebody else at a random moment\n', f'| {" | ".join(head)} |',
                  '|---|--:|---|---|---|--:|']
        for r in f['disk']:
            first, told = r['first'], r['first'].get('said', 'went through').replace('|', '/')
            lines.append(f'| {r["disk"]} | {r["room"]:,} | {told[:160]} | '
                         f'{"" if not first else "yes" if first["names"] and not first["traceback"] else "no"} | '
                         f'{"finished" if not r["then"] else "error"} | {len(r["left_over"]) + len(r["unlike"])} |')
        lines.append('')
    if 'readonly' in f:
        lines += ['## A cache that may only be read\n', '| cache | what was said | unlike |', '|---|---|--:|']
        for r in f['readonly']:
            told = r['told'].get('said', 'went through').replace('|', '/')
            lines.append(f'| {"filled" if r["filled"] else "empty"} | {told[:200]} | {len(r["unlike"])} |')
        lines.append('')
    if 'clock' in f:
        bad = sum(bool(r['code'] or r['left_over'] or r['unlike']) for r in f['clock'])
        lines += ['## A clock set back by two days\n', f'{len(f["clock"])} studies killed and gone on with; {bad} with '
                  'an error, a leftover or another byte.', '']
    return '\n'.join(lines)

if __name__ == '__main__': main()
