"The house: which room may use which, what a room may be called, and how large it may be."
import ast, graphlib, json, re
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
package = root/'xray_xfer'
# from the ground up; a room uses rooms of its own floor and of those below
FLOORS = [
    'core', 'models', 'data', 'settings', 'options', 'evaluate', 'trunk', 'twins', 'scale', 'runs',
    'training', 'learner', 'report', 'inference', 'serving', 'train', 'controls', 'job', 'spread', 'study', 'bench',
    'use', 'cli',
]
ROOMS = {
    '.'.join(f.relative_to(package).with_suffix('').parts): f
    for f in sorted(package.rglob('*.py'))
    if f.name not in ('_modidx.py', '__init__.py')
}
TREES = {name: ast.parse(f.read_text(encoding='utf-8')) for name, f in ROOMS.items()}

def imports(name):
    "(room, what of it) of each import in a room, also of those inside functions"
    here = ['xray_xfer', *name.split('.')][:-1]
    for n in ast.walk(TREES[name]):
        if not isinstance(n, ast.ImportFrom): continue
        base = here[:len(here) - n.level + 1] if n.level else []
        path = [*base, *(n.module or '').split('.')] if n.module else base
        if path[:1] == ['xray_xfer']: yield '.'.join(path[1:]), [a.name for a in n.names]

def floor(name): return FLOORS.index(name.split('.')[0])

@pytest.mark.parametrize('name', ROOMS)
def test_no_arrow_runs_up(name):
    assert [t for t, _ in imports(name) if t and floor(t) > floor(name)] == []

def test_no_arrow_runs_in_a_circle():
    graph = {name: {t for t, _ in imports(name) if t in ROOMS} for name in ROOMS}
    assert list(graphlib.TopologicalSorter(graph).static_order())

@pytest.mark.parametrize('name', ROOMS)
def test_no_room_uses_a_private_name_of_another(name):
    assert [(t, n) for t, names in imports(name) for n in names if n.startswith('_') and n != '__version__'] == []

@pytest.mark.parametrize('name', ROOMS)
def test_a_room_is_not_too_large(name):
    assert len(ROOMS[name].read_text(encoding='utf-8').splitlines()) <= 300

def test_no_room_is_called_like_what_its_package_hands_on():
    "`from xray_xfer.data import pack` would be the room or the function, whichever was imported first"
    import importlib
    for init in package.glob('*/__init__.py'):
        folder = init.parent
        handed = set(getattr(importlib.import_module(f'xray_xfer.{folder.name}'), '__all__', ()))
        assert handed & {f.stem for f in folder.glob('*.py')} == set(), folder.name

def test_every_room_has_its_page():
    pages = {
        ''.join(c['source']).split()[-1]
        for f in (root / 'nbs').rglob('*.ipynb')
        for c in json.loads(f.read_text(encoding='utf-8'))['cells']
        if ''.join(c['source']).startswith('#| default_exp')
    }
    assert pages == set(ROOMS)

# the front doors, and the verbs of the command: their arguments are what they are for
WIDE = {'run', 'study', 'bench', 'schedules', 'learner', 'pack', 'features', 'dataloaders', 'check', 'export'}

@pytest.mark.parametrize('name', ROOMS)
def test_functions_are_short_and_take_little(name):
    for f in ast.walk(TREES[name]):
        if not isinstance(f, ast.FunctionDef): continue
        assert f.end_lineno - f.lineno < 60, f'{f.name} has {f.end_lineno - f.lineno + 1} lines'
        taken = [a for a in (*f.args.args, *f.args.kwonlyargs) if a.arg not in ('self', 'cls')]
        assert len(taken) <= 8 or f.name in WIDE, f'{f.name} takes {len(taken)} arguments'

@pytest.mark.parametrize('name', ROOMS)
def test_every_public_argument_has_a_type(name):
    "Where a value may be of many kinds (a source of images), the sentence says so: `data`, and arrays of any library"
    for f in TREES[name].body:
        if isinstance(f, ast.FunctionDef) and not f.name.startswith('_'):
            bare = [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if a.annotation is None]
            assert set(bare) <= {'data', 'function', 'self'}, f'{f.name}: {bare}'

SHAPE = re.compile(r'\([^()]*[,…][^()]*\)')   # (n,), (n, k), (…)

def test_every_array_has_a_shape():
    "A parameter that is an array or a tensor says its shape, or the sentence of its function does"
    bare = []
    for name, tree in TREES.items():
        lines = ROOMS[name].read_text(encoding='utf-8').splitlines()
        public = [d for d in tree.body if isinstance(d, ast.FunctionDef | ast.ClassDef) and d.name[0] != '_']
        for f in (f for d in public for f in ast.walk(d) if isinstance(f, ast.FunctionDef)):
            if f.name.startswith('_') and f.name != '__init__': continue
            for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs):
                if not a.annotation or not re.search('ndarray|Tensor', ast.unparse(a.annotation)): continue
                above, own = lines[a.lineno - 2].strip(), lines[a.end_lineno - 1]
                said = [above if above.startswith('#') else '', own.partition('#')[2], ast.get_docstring(f) or '']
                if not SHAPE.search(' '.join(said)): bare.append(f'{name}.{f.name}: {a.arg}')
    assert bare == []
