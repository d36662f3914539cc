"settings.ini is the one home of metadata: whatever repeats it must agree. And importing the package costs nothing."
import re, subprocess, sys, tomllib
from configparser import ConfigParser
from pathlib import Path

import xray_xfer

root = Path(__file__).parents[1]
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
proj = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))['project']

def test_pyproject_only_repeats():
    assert proj.pop('dynamic')
    assert proj == dict(name=cfg['lib_name'], description=cfg['description'],
        urls=dict(Repository=cfg['git_url'], Documentation=cfg['doc_url']))

def test_version(): assert xray_xfer.__version__ == cfg['version']

def test_one_quarto_yml(): assert (root/'nbs/_quarto.yml').read_text() == (root/'_quarto.yml').read_text()

def test_every_notebook_is_in_the_sidebar():
    sidebar = (root/'_quarto.yml').read_text()
    pages = [nb.relative_to(root/'nbs').as_posix() for nb in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in nb.parts]
    assert [p for p in pages if not re.search(rf'(?<![\w/]){re.escape(p)}', sidebar)] == []

def test_import_is_light():
    "`import xray_xfer` and the command's overview load neither torch nor fastai nor pandas"
    code = "import sys, xray_xfer, xray_xfer.cli; xray_xfer.cli.main(['--help']); print([m for m in ('torch', 'fastai', 'timm', 'pandas', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith('[]'), out
