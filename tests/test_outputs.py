"What the quick pages show is what their code gives today: tools/rerun.py runs them again and compares the text."
import re, subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]

LEFT_OUT = {   # room: why its page is not run again here; nbdev-test runs all of them, without a look at what is saved
    'index': 'runs the demo study',
    'train': 'trains networks',
    'learner': 'trains networks',
    'inference/ensemble': 'trains networks',
    'inference/stream': 'trains networks',
    'inference/elsewhere': 'trains networks',
    'inference/choose': 'trains networks',
    'cli': 'its help wraps otherwise under pytest than alone; why is not known yet',
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
    'trunk/store': 'runs a trunk over many images',
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

def quick():
    "Pages that take no second or two, by path under nbs without .ipynb"
    found = [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
    pages = [p.relative_to(root/'nbs').as_posix()[:-len('.ipynb')] for p in found]
    rooms = {re.sub(r'\d+_', '', p): p for p in pages}
    assert set(LEFT_OUT) <= set(rooms)
    return [p for r, p in rooms.items() if r not in LEFT_OUT]

def test_quick_pages_show_what_their_code_gives():
    command = [sys.executable, str(root/'tools/rerun.py'), *quick()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    hint = 'if the new text is right: python tools/rerun.py --save PAGE'
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr[-3000:]}\n{hint}'

def test_what_passes_is_not_compared():
    from rerun import plain
    assert plain('<f at 0x7f00>, 3.4 s, 2026-11-28') == plain('<f at 0x8f00>, 12 s, 2026-12-01')
    assert plain('0.93 of 20') != plain('0.94 of 20')
