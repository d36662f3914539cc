"What the quick pages show is what their code gives today: tools/rerun.py runs them again and compares the text."
import subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]

LEFT_OUT = {   # why a page is not run again here; nbdev-test runs all of them, without a look at what is saved
    'index': 'runs the demo study',
    '01_train': 'trains networks',
    '02_study': 'trains networks',
    'controls/02_shuffles': 'trains networks',
    'controls/04_ask': 'trains networks',
    'core/03_cache': 'lists a cache that others may write to',
    'core/04_machine': 'shows the versions and the processor of the machine',
    'data/01_demo': 'draws 400 images and trains a network on them',
    'data/08_table': 'reads a folder of many files',
    'models/06_classifier': 'builds eight networks',
}

def quick():
    pages = [p.relative_to(root/'nbs').as_posix()[:-len('.ipynb')] for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
    assert set(LEFT_OUT) <= set(pages)
    return [p for p in pages if p not in LEFT_OUT]

def test_quick_pages_show_what_their_code_gives():
    done = subprocess.run([sys.executable, str(root/'tools/rerun.py'), *quick()], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr[-3000:]}\nif the new text is right: python tools/rerun.py --save PAGE'

def test_what_passes_is_not_compared():
    from rerun import plain
    assert plain('<f at 0x7f00>, 3.4 s, 2026-11-28') == plain('<f at 0x8f00>, 12 s, 2026-12-01')
    assert plain('0.93 of 20') != plain('0.94 of 20')
