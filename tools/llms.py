"""nbs/llms.txt, the site for programs that read (https://llmstxt.org): `python tools/llms.py` writes it,
tests/test_readme.py holds it to the pages.

nbdev's own llms.txt lists modules whose docstrings are longer than a line, and no pages; ours has every page in the
order of the sidebar with its claim. nbdev-export leaves a file alone that it has not made."""
import json, re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT/'nbs'/'llms.txt'
SUMMARY = '''xray_xfer is a Python package (nbdev, fastai, timm) and a command. `xray_xfer study FOLDER` trains every \
backbone at every fine-tuning depth on a folder of chest X-rays, judges each once on untouched images, with intervals \
and paired comparisons, and writes a report. What is frozen runs once per image, on an inference engine, and not once \
per epoch. Finished runs predict, are judged in other hospitals, asked for shortcuts, calibrated, explained, exported \
as ONNX and served on a local page. A run is a folder of JSON, CSV and safetensors. Not for clinical use.'''

def settings():
    "settings.ini, and the website in _quarto.yml"
    import yaml
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT'], yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']

def line(page, doc_url):
    "A page: its title as a link to its text on the site, and its claim"
    cells = json.loads((ROOT/'nbs'/page).read_text(encoding='utf-8'))['cells']
    first = next(t for c in cells if (t := ''.join(c['source'])).startswith('# '))
    title, claim = re.search(r'^# (.*)', first)[1], ' '.join(re.findall(r'^> *(.*)', first, re.M))
    place = '/'.join(re.sub(r'^\d+_', '', part) for part in page.removesuffix('.ipynb').split('/'))
    name = place.replace('/', '.') if re.fullmatch(r'\w+', title) else title   # a room's title is its module's name
    return f'- [{name}]({doc_url}{place}.html.md): {claim}'

def sections(contents, doc_url):
    "(title, lines) of each section; one inside another comes after what that holds itself"
    for entry in contents:
        if isinstance(entry, str) or 'section' not in entry: continue
        inside = entry['contents']
        pages = [line(p, doc_url) for p in inside if isinstance(p, str)]
        more = [f"- [{p['text']}]({p['href']})" for p in inside if isinstance(p, dict) and 'href' in p]
        yield entry['section'], pages + more
        yield from sections(inside, doc_url)

def llms():
    "The text of llms.txt"
    cfg, site = settings()
    contents, url = site['sidebar']['contents'], cfg['doc_url']
    top = {entry['section'] for entry in contents if isinstance(entry, dict)}
    parts = [f"# {cfg['lib_name']}", f"> {cfg['description']}", SUMMARY, line('index.ipynb', url)]
    optional = []
    for title, lines in sections(contents, url):
        if title in top: parts += [f'## {title}', '\n'.join(lines)]
        else: optional += lines
    # the word has a meaning there: what may be left out where room is short
    return '\n\n'.join([*parts, '## Optional', 'The modules, each with its code, its reasons and its tests:',
                        '\n'.join(optional)]) + '\n'

if __name__ == '__main__': FILE.write_text(llms(), encoding='utf-8')
