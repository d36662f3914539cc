"""Run notebooks again and say where a saved text output is not what the code gives now.

    python tools/rerun.py core/01_say evaluate/01_scores           # pages under nbs/
    python tools/rerun.py --save core/01_say evaluate/01_scores    # and keep the new outputs of the cells that differ
    python tools/rerun.py --slow                                   # the pages that are left to nbdev-test, as a pattern

Times, dates, paths of temporary folders and addresses in memory may differ; figures and warnings are not compared.
A cell with a flag that nbdev-test leaves out (pyproject.toml, `tst_flags`) is left out here too.
tests/test_outputs.py runs the quick pages."""
import atexit, json, os, re, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r'\d+(?:[.,]\d+)*(?:e[+-]?\d+)?'
PASSING = [   # what may differ between two runs of the same code, and what stands for it
    (r' at 0x[0-9a-fA-F]+', ''),
    (rf'{re.escape(tempfile.gettempdir())}/[\w./-]*', 'FOLDER'),
    (r'\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.+]\S*)?)?', 'DATE'),
    (rf'{NUMBER} ?(?:µs|ms|s|seconds?|min|minutes?|h|images/s)\b', 'TIME'),
    (r'\bid="[^"]*"|#T_\w+', 'ID'),
]

LEFT_OUT = {   # room: why its page is not run again here; nbdev-test runs it, without a look at what is saved
    'train': 'trains networks',
    'learner': 'trains networks',
    'inference/ensemble': 'trains networks',
    'inference/stream': 'trains networks',
    'inference/elsewhere': 'trains networks',
    'inference/choose': 'trains networks',
    'serving/reply': 'trains networks',
    'serving/worker': 'starts processes that decode',
    'inference/maps': 'trains networks',
    'inference/sheet': 'trains networks',
    'inference/whole': 'trains a network',
    'inference/handing': 'trains a network',
    'inference/reduced': 'exports networks and times them',
    'study': 'trains networks',
    'controls/shuffles': 'trains networks',
    'controls/ask': 'trains networks',
    'training/feed': 'trains networks',
    'training/optimiser': 'times the steps of optimisers',
    'training/audit': 'searches the demo images for twins',
    'data/demo': 'draws 400 images and trains a network on them',
    'data/table': 'writes and reads many folders',
    'models/classifier': 'builds eight networks',
    'trunk/cutting': 'traces and cuts many networks',
    'trunk/engine': 'exports networks and runs them',
    'trunk/once': 'runs a trunk over many images',
    'report/verdict': 'draws thousands of resamples',
    'report/results': 'trains networks',
    'report/compared': 'makes the reports of whole runs',
    'report/page': 'makes the reports of whole runs',
    'evaluate/readers': 'draws thousands of resamples',
    'evaluate/intervals': 'draws thousands of resamples',
    'evaluate/paired': 'draws thousands of resamples',
    'evaluate/chance': 'draws thousands of resamples',
    'evaluate/thresholds': 'draws thousands of validation parts',
    'bench/timing': 'starts processes and times them',
    'core/machine': 'shows the versions and the processor of the machine',
}

def pages(quick):
    "Pages by path under nbs without .ipynb: those that take a second or two, or the others"
    found = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if not {'.ipynb_checkpoints', '_proc'} & set(p.parts)]
    paths = [p.relative_to(ROOT/'nbs').as_posix()[:-len('.ipynb')] for p in found]
    rooms = {re.sub(r'\d+_', '', p): p for p in paths}
    if lost := set(LEFT_OUT) - set(rooms): raise ValueError(f'no page of {", ".join(sorted(lost))}: mend LEFT_OUT')
    return [p for r, p in rooms.items() if (r not in LEFT_OUT) == quick]

def plain(text):
    "A text without what passes"
    for pattern, stands in PASSING: text = re.sub(pattern, stands, text)
    return text.strip()

def texts(cell):
    "The text outputs of a cell: printed, or a result's fullest text form"
    said = []
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        # a page shows no warnings
        if any(k.startswith('image/') for k in data) or o.get('name') == 'stderr': continue
        kind = next((k for k in ('text/markdown', 'text/html', 'text/plain') if k in data), None)
        said.append(''.join(data[kind] if kind else o.get('text', '')))
    return plain('\n'.join(said))

def rerun(page, save=False):
    "The cells of a page whose text is another now: (number, saved, now)"
    from execnb.shell import CaptureShell
    from nbdev.config import get_config
    from nbdev.process import NBProcessor
    flags = set(str(get_config(ROOT).tst_flags).split())
    notebook = ROOT/'nbs'/f'{page}.ipynb'
    nb = NBProcessor(notebook, rm_directives=False, process=True).nb
    whole = json.loads(notebook.read_text(encoding='utf-8'))
    saved = whole['cells']
    before, differ = Path.cwd(), []
    shell = CaptureShell(notebook, profile=False)
    os.chdir(notebook.parent)
    try:
        for i, cell in enumerate(nb.cells):
            if cell.cell_type != 'code' or flags & set(cell.directives_): continue
            if cell.directives_.get('eval', '').lower() == 'false': continue   # as nbdev-test does
            shell.cell(cell)
            if e := shell.exc: raise RuntimeError(f'{page}, cell {i}: {type(e).__name__}: {e}') from e
            if (was := texts(saved[i])) == (now := texts(cell)): continue
            differ.append((i, was, now))
            saved[i]['outputs'] = [as_saved(o) for o in cell.outputs if o.get('name') != 'stderr']
    finally:
        os.chdir(before)
        atexit.unregister(shell.atexit_operations)   # IPython would collect all garbage at the end, once for each page
    if not (save and differ): return differ
    text = json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True)
    notebook.write_text(text + '\n', encoding='utf-8')
    return differ

def as_saved(output):
    "An output in the form that nbdev-clean leaves"
    lines = lambda text: re.sub(r' at 0x[0-9a-fA-F]+(?=>)', '', ''.join(text)).splitlines(keepends=True)
    o = {k: v for k, v in json.loads(json.dumps(output)).items() if k != 'execution_count'}
    if 'text' in o: o['text'] = lines(o['text'])
    if 'data' in o:
        data = {k: lines(v) if k.startswith('text/') else v for k, v in o['data'].items()}
        o |= {'data': data, 'metadata': {}}
    return o | ({'execution_count': None} if o['output_type'] == 'execute_result' else {})

def main(words):
    "Print what differs; the number of pages that do"
    if words == ['--slow']:
        return print('/(' + '|'.join(map(re.escape, pages(quick=False))) + r')\.ipynb$')
    os.environ['IN_TEST'] = '1'   # nbdev's own sign: a notebook that exports itself does not
    wrong, save = 0, '--save' in words
    for page in [p for p in words if p != '--save']:
        found = rerun(page, save)
        wrong += bool(found)
        for i, was, now in found: print(f'{page}, cell {i}\n--- saved\n{was}\n--- now\n{now}')
    return wrong

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
