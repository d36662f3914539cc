"What the quick pages show is what their code gives today: tools/rerun.py runs them again and compares the text."
import subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]

def test_quick_pages_show_what_their_code_gives():
    from rerun import pages
    command = [sys.executable, str(root/'tools/rerun.py'), *pages(quick=True)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    hint = 'if the new text is right: python tools/rerun.py --save PAGE'
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr[-3000:]}\n{hint}'

def test_what_passes_is_not_compared():
    from rerun import plain
    assert plain('<f at 0x7f00>, 3.4 s, 2026-11-28') == plain('<f at 0x8f00>, 12 s, 2026-12-01')
    assert plain('0.93 of 20') != plain('0.94 of 20')
