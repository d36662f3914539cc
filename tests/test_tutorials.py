"""The tutorials train networks, so nobody runs them but `make long`. What they type is held to the code all the same:
each name that they import is there, each function takes what it is given, and what they show is saved."""
import ast, importlib, inspect, json, re
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
PAGES = sorted((root/'nbs'/'tutorials').glob('*.ipynb'))

def code_cells(page):
    "(directives, code without them and without magics, outputs) of each code cell"
    for cell in json.loads(page.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code': continue
        source = ''.join(cell['source'])
        words = set(re.findall(r'^#\| *([\w-]+)', source, re.M))
        yield words, re.sub(r'^[%!].*$', '', source, flags=re.M), cell['outputs']

def pieces(page): return [code for _, code, _ in code_cells(page)]

def imported(tree):
    "{name: object} of what a page imports from this package, and a complaint for each that is not there"
    found, lost = {}, []
    for n in ast.walk(tree):
        if not isinstance(n, ast.ImportFrom) or not (n.module or '').startswith('xray_xfer'): continue
        for a in n.names:
            try: found[a.asname or a.name] = getattr(importlib.import_module(n.module), a.name)
            except (ImportError, AttributeError): lost.append(f'{n.module} has no {a.name}')
    return found, lost

def keywords_of(call, dicts):
    "The names of the keywords of a call, with those of a `dict(...)` of the page that it unpacks"
    for k in call.keywords:
        if k.arg: yield k.arg
        elif isinstance(k.value, ast.Name): yield from dicts.get(k.value.id, ())

def does_not_take(function, call, dicts):
    "What of a call the function would refuse, in words"
    from xray_xfer.settings import SETTINGS
    sig = inspect.signature(function)
    named = {p.name for p in sig.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in sig.parameters.values()): named |= set(SETTINGS)   # any argument of `run`
    odd = [f'{function.__name__} takes no {k}' for k in keywords_of(call, dicts) if k not in named]
    given = [a for a in call.args if not isinstance(a, ast.Starred)]
    try: sig.bind_partial(*given)
    except TypeError as e: odd.append(f'{function.__name__}: {e}')
    return odd

def complaints(cells):
    "What of the code of a page this package does not have, or would not take"
    tree = ast.parse('\n'.join(cells))
    ours, found = imported(tree)
    dicts, made = {}, {}
    assigned = [(n.targets[0].id, n.value) for n in ast.walk(tree)
                if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and isinstance(n.value, ast.Call)]
    for name, call in assigned:
        function = getattr(call.func, 'id', '')
        if function == 'dict': dicts[name] = [k.arg for k in call.keywords]
        elif function in ours: made[name] = inspect.signature(ours[function]).return_annotation
    for n in ast.walk(tree):
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ours:
            found += does_not_take(ours[n.func.id], n, dicts)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
            kind = made.get(n.value.id)
            if getattr(kind, '__module__', '').startswith('xray_xfer') and not has(kind, n.attr):
                found.append(f'{kind.__name__} has no {n.attr}')
    return found

def has(kind, name): return hasattr(kind, name) or any(name in vars(k).get('__annotations__', ()) for k in kind.__mro__)

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_what_a_tutorial_types_is_there(page): assert complaints(pieces(page)) == []

def test_what_is_not_there_is_found():
    study = 'from xray_xfer.study import study\n'
    assert complaints([study, "s = study('a', depths=0, epochs=3, out='b')", 's.table']) == []
    assert complaints(['from xray_xfer.study import studies']) == ['xray_xfer.study has no studies']
    assert complaints(['from xray_xfer.nowhere import study']) == ['xray_xfer.nowhere has no study']
    assert complaints([study, "study('a', epoch=3)"]) == ['study takes no epoch']
    assert complaints([study, 'asked = dict(epochs=3, dephts=1)', "study('a', **asked)"]) == ['study takes no dephts']
    assert complaints([study, "s = study('a')", 's.tabel']) == ['Study has no tabel']
    [too_many] = complaints(['from xray_xfer.twins import find_twins', 'find_twins(1, 2, 3, 4)'])
    assert too_many.startswith('find_twins: too many positional arguments')
    with pytest.raises(SyntaxError): complaints(['films ='])

QUIET = ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef   # show nothing

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_a_tutorial_shows_what_it_prints_and_costs_nothing(page):
    "What does something is left to `make long`, and its output is saved"
    shown = 0
    for words, code, outputs in code_cells(page):
        does = [n for n in ast.parse(code).body if not isinstance(n, QUIET)]
        calls = any(isinstance(n, ast.Call) for n in ast.walk(ast.parse(code)))
        assert 'slow' in words or 'eval' in words or not calls, code
        if 'hide' in words or 'eval' in words: continue
        assert bool(outputs) == bool(does), code
        shown += bool(outputs)
    assert shown >= 5

def test_the_tutorials_work_in_one_folder():
    "Three pages go on from one study: the cell that finds their folder, and the study's arguments, are the same"
    of = {page.stem: '\n'.join(pieces(page)) for page in PAGES}
    cells = [next(c for c in pieces(page) if 'chdir' in c) for page in PAGES if 'chdir' in of[page.stem]]
    assert len(cells) == 3 and len(set(cells)) == 1
    assigned = {stem: [n for n in ast.walk(ast.parse(of[stem])) if isinstance(n, ast.Assign)] for stem in of}
    calls = [next(n.value for n in assigned[stem] if ast.unparse(n.targets[0]) == 's')
             for stem in ('01_kaggle', '02_trust', '03_use')]
    asked = [{ast.unparse(a) for a in c.args} | {k.arg for k in c.keywords} for c in calls]
    assert asked[0] == asked[1] == asked[2]

def test_the_picture_of_a_report():
    "tools/screenshot.py makes it"
    from PIL import Image
    file = root/'nbs'/'images'/'report.png'
    assert file.stat().st_size < 120_000
    with Image.open(file) as picture: assert picture.width == 1000 and picture.height > 600
