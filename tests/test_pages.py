"The staged documentation (`nbdev.serve.proc_nbs` writes _proc): links lead somewhere, outputs are there, nothing of this machine is shown."
import json, re, tempfile
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
place = lambda nb: nb.relative_to(root/'nbs').as_posix()[:-len('.ipynb')]

def cells(nb): return json.loads(nb.read_text(encoding='utf-8'))['cells']
def prose(nb): return '\n'.join(''.join(c['source']) for c in cells(nb) if c['cell_type'] == 'markdown')

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_page(nb):
    text = prose(nb)
    assert re.search(r'^# ', text, re.M) and re.search(r'^> ', text, re.M), 'a page opens with a title and a claim'
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not target.startswith(('http', '#')): assert (nb.parent/target.split('#')[0]).exists(), target
    assert nb.stat().st_size < 250_000
    outputs = [o for c in cells(nb) for o in c.get('outputs', [])]
    assert not [o for o in outputs if o['output_type'] == 'error']
    assert not [o for o in outputs if o.get('name') == 'stderr'], 'a page shows no warnings'
    shown = json.dumps([''.join(o.get('text', [])) + str({k: v for k, v in o.get('data', {}).items() if not k.startswith('image')}) for o in outputs])
    assert not re.search(rf'{tempfile.gettempdir()}/|{Path.home()}|/home/|/nbs\b|site-packages', shown), 'a page shows no path of the machine that made it'

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_title_and_claim_have_a_cell_of_their_own(nb):
    "nbdev makes front matter of the whole cell that begins with the title, and drops what else stands in it"
    first = next(''.join(c['source']) for c in cells(nb) if c['cell_type'] == 'markdown' and ''.join(c['source']).startswith('# '))
    assert all(not l.strip() or l.startswith(('# ', '> ')) for l in first.splitlines()), first

@pytest.mark.parametrize('nb', [n for n in NOTEBOOKS if n.stem != 'index'], ids=place)
def test_every_public_name_has_its_proof(nb):
    "Each public function or class of a module is used in a cell of its page that is not exported"
    code = [''.join(c['source']) for c in cells(nb) if c['cell_type'] == 'code']
    exported = '\n'.join(c for c in code if re.match(r'#\| *export', c))
    tests = '\n'.join(c for c in code if not re.match(r'#\| *(export|default_exp)', c))
    names = re.findall(r'^(?:def|class) ([A-Za-z]\w*)', exported, re.M)
    assert [n for n in names if not re.search(rf'\b{n}\b', tests)] == []

def test_staged_pages():
    "Every notebook is staged, and the links between staged pages hold"
    proc = root/'_proc'
    if not proc.is_dir(): pytest.skip('no staged pages: python -c "from nbdev.serve import proc_nbs; proc_nbs(force=True)" makes them in _proc')
    staged = {p.relative_to(proc).as_posix(): p for p in proc.rglob('*.ipynb')}
    assert set(staged) == {place(n) + '.ipynb' for n in NOTEBOOKS}
    assert (proc/'_quarto.yml').is_file()
    for nb in staged.values():
        text = prose(nb)
        for target in re.findall(r'\]\(([^)\s]+)\)', text):
            if target.startswith(('http', '#')): continue
            there = nb.parent/target.split('#')[0]
            assert there.exists() or there.with_suffix('.ipynb').exists(), f'{nb.name}: {target}'
        assert 'xray_xfer' in json.dumps(cells(nb))
