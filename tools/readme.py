"README.md from nbs/index.ipynb: `python tools/readme.py` writes it, tests/test_readme.py holds it."
import json, re
from html.parser import HTMLParser
from pathlib import Path

root = Path(__file__).resolve().parents[1]

class _Rows(HTMLParser):
    "The cells of an HTML table, row by row"
    def __init__(self): super().__init__(); self.rows, self.cell = [], None
    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th'): self.cell = ''
    def handle_data(self, data):
        if self.cell is not None: self.cell += data
    def handle_endtag(self, tag):
        if tag in ('td', 'th'): self.rows[-1].append(self.cell.strip()); self.cell = None

def table(html):
    "An HTML table, as pandas shows one, in Markdown"
    p = _Rows(); p.feed(re.sub(r'<style.*?</style>', '', html, flags=re.S))
    head, *body = p.rows
    if len(body[0]) > 1 and not any(body[0][1:]): head[0], body = body[0][0], body[1:]   # the row that names the index
    line = lambda cells: '| ' + ' | '.join(cells) + ' |'
    return '\n'.join([line(head), line(['---'] + ['---:'] * (len(head) - 1)), *map(line, body)])

def output(o):
    "One saved output: Markdown as it is, a table as a table, else text as a fence"
    data = {k: ''.join(v) for k, v in o.get('data', {}).items()}
    if 'text/markdown' in data: return data['text/markdown'].strip()
    if '<table' in data.get('text/html', ''): return table(data['text/html'])
    text = data.get('text/plain') or ''.join(o.get('text', ''))
    return f'```\n{text.strip()}\n```' if text.strip() else ''

def readme():
    "The text of README.md"
    parts = []
    for c in json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] == 'markdown': parts.append(source)
        elif not source.startswith('#| hide'):
            fence = f'```python\n{source}\n```'
            # imports have a cell of their own for nbdev; in the README they belong to the code that follows
            if (
                parts
                and parts[-1].startswith('```python\nfrom')
                and parts[-1].count('import') == parts[-1].count('\n') - 1
            ):
                fence = parts.pop()[:-3] + '\n' + fence[len('```python\n') :]
            parts += [fence, *(t for o in c.get('outputs', []) if (t := output(o)))]
    text = '\n\n'.join(parts) + '\n'
    text = re.sub(r'\]\(images/', '](nbs/images/', text)
    text = re.sub(r'\]\(((?:\w+/)?[0-9a-z]+_\w+\.ipynb)', r'](nbs/\1', text)
    return '<!-- made from nbs/index.ipynb by tools/readme.py: edit there -->\n\n' + text

if __name__ == '__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
