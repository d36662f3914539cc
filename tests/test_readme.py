"""README.md is nbs/index.ipynb, what it links to is there, the commands it names exist, and its numbers are those of
the files under benchmarks/."""
import json, re

import pytest

import blocks, figures
from readme import readme, root

def test_readme_is_the_index():
    assert (root/'README.md').read_text(encoding='utf-8') == readme(), 'run: python tools/readme.py'

def test_nothing_was_left_to_fill_in(): assert not re.search(r'[A-Z]{2,}TIME|TODO|XXX|@@', readme())

def test_links_lead_somewhere():
    text = readme()
    anchors = {re.sub(r'[^\w\- ]', '', h.lower()).strip().replace(' ', '-')
               for h in re.findall(r'^#+ (.*)', text, re.M)}
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if target.startswith('http'): continue
        assert target[1:] in anchors if target.startswith('#') else (root/target).exists(), target

def test_commands_it_names_parse():
    from xray_xfer.cli import verb_parser
    lines = re.findall(r'^xray_xfer (\w+) (.*?)(?:\s+#.*)?$', readme(), re.M)
    assert {v for v, _ in lines} >= {'check', 'study', 'external', 'predict'}
    for verb, rest in lines: verb_parser(verb).parse_args(rest.split())

def test_what_it_imports_is_there():
    from importlib import import_module
    lines = re.findall(r'\bfrom (xray_xfer[\w.]*) import (\w+)', readme())
    assert lines
    for room, name in lines: assert callable(getattr(import_module(room), name)) or name.isupper(), f'{room}.{name}'

def test_make_targets_it_names_exist():
    makefile = (root/'Makefile').read_text()
    for t in re.findall(r'^make (\w+)', readme(), re.M): assert re.search(rf'^{t}:', makefile, re.M), t

def test_it_is_two_screens():
    text = readme()
    assert len(text.splitlines()) <= 110 and len(text.encode()) <= 9_000

# Numbers

BY_HAND = {   # numbers that may be typed into the landing page, and what they are
    '3.11': 'the oldest Python', '400': 'drawings of the demo', '5': 'of --folds 5', '0.01': 'of --margin 0.01',
    '2.0': 'of the licence',
}

def test_made_cells_are_what_their_files_say():
    found = {}
    for page in blocks.pages():
        for name, text in blocks.made(page).items():
            assert text == blocks.cell(name), f'{page.name}, {name}: run python tools/blocks.py'
            found.setdefault(page.stem, set()).add(name)
    assert found['index'] == {'headline', 'first_steps'}
    assert set.union(*found.values()) == set(blocks.CELLS), 'a cell that no page has'

def test_no_number_is_typed_into_the_landing_page():
    cells = json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']
    texts = [''.join(c['source']) for c in cells]
    by_hand = '\n'.join(t for t in texts if not t.startswith('<!-- '))
    by_hand = re.sub(r'\]\([^)]*\)', ']', by_hand)   # where a link leads
    assert len(by_hand) > 2_000
    assert {n for n in re.findall(r'(?<![\w.])\d[\d.,]*\b', by_hand)} <= set(BY_HAND)

@pytest.mark.parametrize('name', figures.FIGURES)
def test_figures_show_what_is_filed(name):
    from PIL import Image
    with Image.open(figures.IMAGES/name) as picture:
        assert json.loads(picture.text['Description']) == json.loads(figures.drawn_of(name)), 'run: make numbers'

def test_a_point_takes_both_measurements():
    "No accuracy of one recipe beside the seconds of another"
    value = .9, .8, 1.
    scores = {('ShuffleNetV2 depth 2', way): blocks.Score(epochs, 'bf16', value, value)
              for way, epochs in (('ours', 6), ('stock', 10))}
    def ways(ours, epochs):
        rows = [dict(arch='shufflenetv2_100', depth=2, way=w, whole=9., epochs_timed=e, epochs=e)
                for w, e in (('stock', 10), ('tuned', 10), ('cold', epochs))]
        rows.append(rows[0] | dict(depth='study'))
        return [p.way for p in blocks.points(dict(rows=rows, epochs=10) | ours, scores)]
    assert ways(dict(ours=None), 6) == ['stock', 'cold']   # of tuned there is no accuracy
    assert ways(dict(ours=None), 10) == ['stock'] and ways({}, 6) == ['stock'] and ways(dict(ours=6), 6) == ['stock']

def test_tables_of_the_folds_are_those_of_their_predictions(monkeypatch):
    "folds.md, of which the pages are made, is what folds.json says of the baselines and of ours"
    monkeypatch.syspath_prepend(root/'benchmarks')
    import beat
    there = blocks.filed('folds.json')
    text, fixed = blocks.text_of('folds.md'), re.search(r'fixed in commit (\w+)', blocks.text_of('folds.md'))[1]
    assert text == '\n'.join(beat.tables(there, fixed)).strip(), 'python benchmarks/beat.py > benchmarks/folds.md'
    whole = [case for case, each in there['cases'].items() if len(each) == 5]
    assert len(text.split('\n\n')[0].splitlines()) == 2 + len(there['ours']) + len(whole)

def test_tables_of_the_bench_are_those_of_its_measurements():
    from xray_xfer.bench.ratios import bench_text
    assert blocks.text_of('bench.md').startswith(bench_text(blocks.filed('bench.json')).strip())

def test_llms_txt_is_that_of_the_pages():
    "`python tools/llms.py` writes it; every page is in it once, with its claim"
    import llms
    text = llms.FILE.read_text(encoding='utf-8')
    assert text == llms.llms(), 'a page, a claim or the sidebar has changed: python tools/llms.py'
    pages = [p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
    links = re.findall(r'^- \[[^\]]+\]\((\S+)\): \S', text, re.M)
    assert len(links) == len(set(links)) == len(pages) and all(a.endswith('.html.md') for a in links)
    bare = [l for l in text.splitlines() if l.startswith('- ') and ': ' not in l]
    changes = 'https://github.com/xray-xfer/xray_xfer/blob/main/CHANGELOG.md'
    assert text.startswith('# xray_xfer\n\n> ') and bare == [f'- [What versions changed]({changes})']
