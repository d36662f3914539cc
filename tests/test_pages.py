"""The documentation. The notebooks: titles, links, outputs, a text for each picture, nothing of this machine.
The staged pages (`nbdev.serve.proc_nbs` writes _proc): all prose arrives, each link leads to the right room,
signatures are short."""
import ast, json, re, tempfile
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
    def but_images(data): return {k: v for k, v in data.items() if not k.startswith('image')}
    shown = json.dumps([''.join(o.get('text', [])) + str(but_images(o.get('data', {}))) for o in outputs])
    of_this_machine = rf'{tempfile.gettempdir()}/|{Path.home()}|/home/|/nbs\b|site-packages'
    assert not re.search(of_this_machine, shown), 'a page shows no path of the machine that made it'

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_title_and_claim_have_a_cell_of_their_own(nb):
    "nbdev makes front matter of the whole cell that begins with the title, and drops what else stands in it"
    prose = [''.join(c['source']) for c in cells(nb) if c['cell_type'] == 'markdown']
    first = next(text for text in prose if text.startswith('# '))
    assert all(not l.strip() or l.startswith(('# ', '> ')) for l in first.splitlines()), first

@pytest.mark.parametrize('nb', [n for n in NOTEBOOKS if n.stem != 'index'], ids=place)
def test_every_public_name_has_its_proof(nb):
    "Each public function or class of a module is used in a cell of its page that is not exported"
    code = [''.join(c['source']) for c in cells(nb) if c['cell_type'] == 'code']
    exported = '\n'.join(c for c in code if re.match(r'#\| *export', c))
    tests = '\n'.join(c for c in code if not re.match(r'#\| *(export|default_exp)', c))
    names = re.findall(r'^(?:def|class) ([A-Za-z]\w*)', exported, re.M)
    assert [n for n in names if not re.search(rf'\b{n}\b', tests)] == []

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_imports_have_a_cell_of_their_own(nb):
    "nbdev runs each cell that imports something while it stages a page: one trained networks for eight minutes"
    for c in cells(nb):
        text = ''.join(c['source'])
        if c['cell_type'] != 'code' or re.match(r'#\| *(export|hide)', text): continue
        tree = ast.parse(re.sub(r'^[%!].*$', '', text, flags=re.M))
        alone = all(isinstance(l, ast.Import | ast.ImportFrom) for l in tree.body)
        assert alone or not any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(tree)), text

def test_commands_parse():
    "What a page tells its reader to type is understood by the command, option by option"
    import shlex
    from xray_xfer.cli import VERBS, verb_parser
    lines = [(place(nb), line) for nb in NOTEBOOKS for block in re.findall(r'^```sh\n(.*?)^```', prose(nb), re.M | re.S)
             for line in block.splitlines() if line.startswith('xray_xfer ')]
    assert len(lines) > 30
    for page, line in lines:
        verb, *words = shlex.split(line, comments=True)[1:]
        if verb == '--version': continue
        assert verb in VERBS, (page, line)
        try: verb_parser(verb).parse_args([w for w in words if w != '--debug'])
        except SystemExit: pytest.fail(f'{page}: {line}')

# Pictures

def directives(cell): return dict(re.findall(r'^#\| *([\w-]+):? *(.*)$', ''.join(cell['source']), re.M))
def pictured(cell): return any(k.startswith('image/') for o in cell.get('outputs', []) for k in o.get('data', {}))
def sentence(text): return len(text.split()) > 5 and text[0].isupper() and text.endswith('.')

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_every_picture_is_described(nb):
    "Who cannot see a figure reads what it shows: a sentence in `#| fig-alt:`, or between the brackets of `![]()`"
    for c in cells(nb):
        if pictured(c):
            alt = directives(c).get('fig-alt', '')
            assert alt[:1] == alt[-1:] == '"' and sentence(alt[1:-1]), ''.join(c['source'])
        html = ''.join(''.join(o.get('data', {}).get('text/html', '')) for o in c.get('outputs', []))
        assert all(re.search(r'\balt="[^"]', i) for i in re.findall(r'<img[^>]*>', html))
    for alt in re.findall(r'!\[([^\]]*)\]\(', prose(nb)): assert sentence(alt), alt

# The staged pages

def defined(nb):
    "The names that a page documents, with the methods of its classes: {'Pack': {'notes', ...}, 'pack': set()}"
    found = {}
    for c in cells(nb):
        source = ''.join(c['source'])
        if not re.match(r'#\| *exports?\s', source): continue
        for d in ast.parse(source).body:
            if not isinstance(d, (ast.FunctionDef, ast.ClassDef)) or d.name[0] == '_': continue
            found[d.name] = {m.name for m in ast.walk(d) if isinstance(m, ast.FunctionDef)} - {d.name}
    return found

DEFINED = {place(nb): defined(nb) for nb in NOTEBOOKS}
MODULE = r'#\| *default_exp +(\S+)'
PACKAGED = {place(nb): m[1] for nb in NOTEBOOKS for c in cells(nb) if (m := re.match(MODULE, ''.join(c['source'])))}

def imported(nb):
    "What the cells of a page import: {name: {module, ...}}"
    found = {}
    for c in cells(nb):
        if c['cell_type'] != 'code': continue
        for n in ast.walk(ast.parse(re.sub(r'^[%!].*$', '', ''.join(c['source']), flags=re.M))):
            for a in n.names if isinstance(n, ast.ImportFrom) else []:
                found.setdefault(a.asname or a.name, set()).add(n.module or '')
    return found

def linkable(nb):
    "All Markdown of a staged page: its prose, and what `show_doc` says"
    outputs = [o.get('data', {}).get('text/markdown', '') for c in cells(nb) for o in c.get('outputs', [])]
    return '\n\n'.join([prose(nb), *map(''.join, outputs)])

def anchors(nb):
    "The ids of a page's headings, as pandoc makes them"
    ids = []
    for line in re.sub(r'^```.*?^```', '', linkable(nb), flags=re.M | re.S).splitlines():
        if not (m := re.match(r'#+ +(.*?)(?: *\{#([\w-]+)\})?$', line)): continue
        text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', m[1])
        ids.append(m[2] or re.sub(r'^[^a-z]+', '', re.sub(r'[^\w\-. ]', '', text.lower()).replace(' ', '-')))
    return ids

def unlinked(text):
    "Prose without its links, ids of headings and line ends"
    return ' '.join(re.sub(r'\[([^\]]*)\]\([^)]*\)| \{#[\w-]+\}$', r'\1', text, flags=re.M).split())

@pytest.fixture(scope='module')
def staged():
    "The staged pages, by place"
    proc = root/'_proc'
    make = 'python -c "from nbdev.serve import proc_nbs; proc_nbs(force=True)"'
    if not proc.is_dir(): pytest.skip(f'no staged pages: {make} makes them in _proc')
    found = {p.relative_to(proc).as_posix()[:-len('.ipynb')]: p for p in sorted(proc.rglob('*.ipynb'))}
    assert set(found) == {place(n) for n in NOTEBOOKS}
    assert (proc/'_quarto.yml').is_file() and (proc/'images/favicon.svg').is_file()
    return found

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_all_prose_arrives(nb, staged):
    import yaml
    front = next(''.join(c['source']) for c in cells(staged[place(nb)]) if c['cell_type'] == 'raw').strip().strip('-')
    front, there = yaml.safe_load(front), unlinked(prose(staged[place(nb)]))
    for c in cells(nb):
        text = ''.join(c['source'])
        if c['cell_type'] != 'markdown': continue
        if text.startswith('# '): assert text.split() == f"# {front['title']} > {front['description']}".split()
        else: assert unlinked(text) in there, text

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_links_of_staged_pages(nb, staged):
    "A link leads to a page and a heading that are there; one on a name, to the page that defines it and that is meant"
    page, here = staged[place(nb)], place(nb)
    homes = lambda name: {p for p, names in DEFINED.items() if name in names}
    for text, target in re.findall(r'\[([^\]]*)\]\(([^)\s]+)\)', linkable(page)):
        file, _, mark = target.partition('#')
        if file.startswith('http'): continue
        there = (page.parent/file).resolve() if file else page
        assert there.exists(), target
        if mark: assert mark in anchors(there), f'{target}: no such heading'
        if not (mark and re.fullmatch(r'`[\w.]+(\(\))?`', text)): continue
        home = there.relative_to(root/'_proc').as_posix()[:-len('.ipynb')]
        name, *member = text.strip('`()').split('.')[-2 if text.count('.') == 1 else -1:]
        original = next((n for n in DEFINED[home] if n in (name, mark) or n.lower() == mark), None)
        assert original, f'{home} does not define {text}'
        if member: assert member[0] in DEFINED[home][name], f'{home} does not define {text}'
        meant = home == here or any(f'xray_xfer.{PACKAGED[home]}.'.startswith(f'{m}.')
                                    for m in imported(nb).get(name, ()))
        assert meant or homes(name) == {home}, f'{text} may be another: {homes(name)}'

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=place)
def test_names_of_staged_pages(nb, staged):
    "Each documented name has one heading, outside any Div, a link to its own lines, and a signature for people"
    page = staged[place(nb)]
    timed = [c for c in cells(page) if 'execution' in c['metadata']]
    assert not timed, 'Quarto wraps such a cell in a Div, and its headings are not in the contents'
    ids = anchors(page)
    assert len(ids) == len(set(ids)), 'two headings with one id'
    headings = re.findall(r'^### (\w+) \{#(\w+)\}$', linkable(page), re.M)
    assert {n for n, _ in headings} == set(DEFINED[place(nb)])
    if not headings: return
    module = 'xray_xfer/' + PACKAGED[place(nb)].replace('.', '/') + '.py'
    lines = (root/module).read_text(encoding='utf-8').splitlines()
    shown = r'^\[source\]\(https://\S+/blob/main/(\S+)#L(\d+)\)\{.*?\}\n\n### (\w+)'
    sources = re.findall(shown, linkable(page), re.M)
    assert len(sources) == len(headings)
    for file, line, name in sources:
        assert file == module and re.match(rf'(def|class) {name}\b', lines[int(line) - 1]), (file, line, name)
    for text in re.findall(r'^### .*?^```python\n(.*?)^```', linkable(page), re.M | re.S):
        code = re.sub(r'#.*|\'[^\']*\'', '', text)
        assert not re.search(r'<|__main__|Annotated|NoneType|[a-z_]\w*\.[A-Za-z_]', code), text
        assert max(map(len, text.splitlines())) <= 100, text
        if not text.startswith('def '):
            assert code.count('=') < 45, text
            continue
        takes = ast.parse(text.replace('…', '0').rstrip() + '\n    ...').body[0].args
        defaults = [d for d in (*takes.defaults, *takes.kw_defaults) if d is not None]
        inside = [n for d in defaults for n in ast.walk(d) if isinstance(n, ast.keyword)]
        assert code.count('=') == len(defaults) + len(inside), text   # and none that people do not need

def test_a_signature_is_narrow():
    from pages import abridged, narrow
    short = 'def f(\n    a:int=1, # One\n)->int: # Two'
    assert narrow(short) == short
    words = 'word ' * 30
    long = f'def f(\n    a:str=\'x, b:y\', # {words}\n    b:int, c:int, d:int, e:int\n)->int: # {words}'
    lines = narrow(long, 40).split('\n')
    assert max(map(len, lines)) <= 40 and ' '.join(lines).count('word') == 60
    assert lines.index("    a:str='x, b:y',") > 3
    assert lines[1].startswith('    # word') and lines[-1].startswith('    # ')
    several = 'def f(\n    a:int, # One\n    # and more\n    b:int):'
    assert narrow(several) == 'def f(\n    a:int, # One and more\n    b:int):'
    typed = '    first:int, second:Literal[1, 2], third:int'
    assert narrow(typed, 34).split('\n') == ['    first:int,', '    second:Literal[1, 2],', '    third:int']
    assert repr(abridged(tuple(range(99)))) == '(0, 1, …, 98)' and abridged((1, 2)) == (1, 2)

def test_common_words_are_no_links():
    "A name in backticks is a link where it can mean one thing only: words wait until the page defines or imports them"
    from pages import link, rooms
    by = {r.module.removeprefix('xray_xfer.'): r for r in rooms().values()}
    home = rooms()['index.ipynb']
    words = 'run table test true True stats levels describe compare report.html L'.split()
    assert [w for w in words if link(w, home)] == []
    assert link('run', by['cli']) == '#run'
    assert link('find_odd', home) == by['data.odd'].page + '#find_odd'
    train = by['train'].page
    assert link('xray_xfer.train.run', home) == f'{train}#run' and link('xray_xfer.train', home) == train
    assert link('Classifier.train', by['data.demo']) == '../' + by['models.classifier'].page + '#classifier'
    assert link('Classifier.no_such', home) is None
    assert link('Cut', home) == by['trunk.cutting'].page + '#Cut' and link('cut', by['trunk.cutting']) == '#cut'

def test_site():
    "The site names the version, licence and repository of settings.ini, and shows the floors in the order of the data"
    import yaml
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    cfg, site = ini['DEFAULT'], yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8'))['website']
    assert site['page-footer']['left'] == f"{cfg['lib_name']} {cfg['version']}, {cfg['license']}"
    assert [i['href'] for i in site['navbar']['right']] == [cfg['git_url']]
    assert site['page-navigation'] is True and (root/'nbs'/site['favicon']).is_file()
    assert list(within(site['sidebar']['contents'], 'section')) and 'CHANGELOG.md' in str(site['sidebar'])
    first, *rest = within(site['sidebar']['contents'])
    order = list(dict.fromkeys(page.split('/')[0] for page in rest if '/' in page))
    flow = ('tutorials howto explanations reference data twins models trunk training evaluate runs controls report '
            'inference bench core').split()
    assert first == 'index.ipynb' and [f for f in flow if f in order] == [f for f in order if f in flow]
    assert len(set(rest)) == len(rest) == len(NOTEBOOKS) - 1

def within(contents, what='page'):
    "The pages of a sidebar, or the titles of its sections, in order; a section may hold sections"
    for entry in contents:
        if isinstance(entry, str):
            if what == 'page': yield entry
        elif 'section' in entry:
            if what == 'section': yield entry['section']
            yield from within(entry['contents'], what)

def contrast(a, b):
    "Of two colours as #rgb or #rrggbb, 1 to 21 (WCAG 2)"
    def light(c):
        c = c[1:] if len(c) == 7 else ''.join(2 * x for x in c[1:])
        parts = [int(c[i:i + 2], 16) / 255 for i in (0, 2, 4)]
        each = [v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4 for v in parts]
        return .2126 * each[0] + .7152 * each[1] + .0722 * each[2]
    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + .05) / (low + .05)

def test_dark_pages_are_legible():
    "Inline code in the dark theme: its own colours, far enough apart; figures are opaque, so white sheets on any page"
    css = (root/'nbs'/'styles.css').read_text(encoding='utf-8')
    code = re.search(r'quarto-dark main :not\(pre\) > code \{ color: (#\w+); background-color: (#\w+); \}', css)
    assert contrast(*code.groups()) > 7 and contrast(code[1], '#222') > 7   # darkly's page
    assert round(contrast('#000', '#fff')) == 21 and contrast('#7d12ba', '#222') < 3   # that of Quarto's light theme

def opaque(png):
    import base64, io
    from PIL import Image
    return Image.open(io.BytesIO(base64.b64decode(png))).convert('RGBA').getchannel('A').getextrema() == (255, 255)

def test_figures_are_opaque():
    "Black lettering on a transparent ground cannot be read on a dark page"
    for nb in NOTEBOOKS:
        for data in (o.get('data', {}) for c in cells(nb) for o in c.get('outputs', [])):
            assert 'image/png' not in data or opaque(''.join(data['image/png'])), place(nb)

def sections(contents):
    "(title, pages) of the sidebar's sections that hold any, also of those inside others"
    for s in contents:
        if not isinstance(s, dict) or 'section' not in s: continue
        if pages := {p for p in s['contents'] if isinstance(p, str)}: yield s['section'], pages
        yield from sections(s['contents'])

def test_the_index_leads_into_every_section():
    "The sidebar has every page (test_metadata.py); from the landing page a reader comes to each of its sections"
    import yaml
    site = yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8'))['website']
    linked = set(re.findall(r'\]\(([\w/]+\.ipynb)', prose(root/'nbs'/'index.ipynb')))
    found = list(sections(site['sidebar']['contents']))
    assert len(found) > 10 and [title for title, pages in found if not linked & pages] == []
