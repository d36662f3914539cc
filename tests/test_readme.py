"README.md is nbs/index.ipynb, what it links to is there, and the commands it names exist."
import re

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
    assert {v for v, _ in lines} >= {'check', 'study', 'run', 'table'}
    for verb, rest in lines: verb_parser(verb).parse_args(rest.split())

def test_what_it_imports_is_there():
    from importlib import import_module
    lines = re.findall(r'^from (xray_xfer[\w.]*) import (\w+)', readme(), re.M)
    assert len(lines) >= 6
    for room, name in lines: assert callable(getattr(import_module(room), name)) or name.isupper(), f'{room}.{name}'

def test_make_targets_it_names_exist():
    makefile = (root/'Makefile').read_text()
    for t in re.findall(r'^make (\w+)', readme(), re.M): assert re.search(rf'^{t}:', makefile, re.M), t

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
