"""How the notebooks become documentation pages, where nbdev's own way leads astray.

pyproject.toml names what is here, and nbdev calls it when it stages the pages in `_proc`. The repository's root must be
on the path: `PYTHONPATH=. nbdev-docs`, or `make docs`."""
import ast, builtins, dataclasses, inspect, json, re, textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastcore.docments import DocmentText, MarkdownRenderer, ann_parts, empty
from IPython.core.interactiveshell import InteractiveShell
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
PACKAGE = 'xray_xfer'
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef

# At the end of a process IPython collects all garbage once for each shell, and each page has had one: half a minute
InteractiveShell.atexit_operations = lambda self: None

# What the pages define, and what each of them imports

class Room(NamedTuple):
    page: str     # 'data/03_tree.ipynb'
    module: str   # 'xray_xfer.data.tree'; '' where the page makes none
    names: dict   # Each documented name: its definition (ast)
    imports: dict # Each name that a cell imports: (module, name there)

def parsed(source):
    "The statements of a cell; none of one that is not plain Python"
    try: return ast.parse(source).body
    except SyntaxError: return []

def room(notebook):
    "What a notebook defines and imports"
    whole = json.loads(notebook.read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in whole['cells'] if c['cell_type'] == 'code']
    module = next((f'{PACKAGE}.{m[1]}' for c in cells if (m := re.search(r'^#\| *default_exp +(\S+)', c, re.M))), '')
    shown = [c for c in cells if re.match(r'#\| *exports? *$', c, re.M) and not re.search(r'^#\| *hide', c, re.M)]
    names = {d.name: d for c in shown for d in parsed(c) if isinstance(d, DEFINITIONS) and d.name[0] != '_'}
    found = [n for c in cells for s in parsed(c) for n in ast.walk(s) if isinstance(n, ast.ImportFrom) and n.module]
    imports = {a.asname or a.name: (n.module, a.name) for n in found for a in n.names}
    return Room(notebook.relative_to(NBS).as_posix(), module, names, imports)

@cache
def rooms():
    "Every page's room, by page"
    found = [room(n) for n in sorted(NBS.rglob('*.ipynb')) if '.ipynb_checkpoints' not in n.parts]
    return {r.page: r for r in found}

def defining(module, name):
    "Pages whose module, or a module of that package, documents a name"
    return [r for r in rooms().values() if name in r.names and f'{r.module}.'.startswith(f'{module}.')]

def only(found): return found[0] if len(found) == 1 else None

def own(name, here):
    "What a bare name can mean on a page, (room, name there): its own, an imported one, or the only one of that name"
    if name in here.names: return here, name
    module, there = here.imports.get(name, (PACKAGE, name))
    telling = name in here.imports or '_' in name or name[0].isupper()   # else it is a word: `run`, `table`, `levels`
    found = only(defining(module, there)) if telling else None
    return found and (found, there)

def link(name, here):
    "Where a name in backticks leads from a page; None: it is no link"
    holder, _, last = name.rpartition('.')
    if not holder:
        there = own(name, here)
        return address(*there, here) if there else elsewhere(name, here)
    if name.startswith(f'{PACKAGE}.'):   # spelled out
        if room := only([r for r in rooms().values() if r.module == name]): return address(room, '', here)
        room = only(defining(holder, last))
        return room and address(room, last, here)
    # a method has no heading of its own: its class has
    there = '.' not in holder and own(holder, here)
    if not there: return None
    room, cls = there
    members = [d.name for d in ast.walk(room.names[cls]) if isinstance(d, DEFINITIONS)]
    return address(room, cls, here) if last in members else None

LIBRARIES = dict(fastai='//docs.fast.ai/', fastcore='//fastcore.fast.ai/')   # whose names nbdev knows

def elsewhere(name, here):
    "The documentation of fastai or fastcore, where a page imports the name from there, or where it is that of a class"
    imported = name in here.imports
    a_class = name[0].isupper() and len(name) > 2 and not hasattr(builtins, name)
    if not imported and (not a_class or defining(PACKAGE, name)): return None
    found = NbdevLookup().doc(name)
    library = LIBRARIES.get(here.imports[name][0].split('.')[0], ' ') if imported else ''
    return found if found and library in found else None

def address(there, name, here):
    "The link from one page to a name on another; Quarto turns .ipynb into .html"
    mark = f'#{anchor(name, there)}' if name else ''
    if there is here and name: return mark
    up = '../' * here.page.count('/')
    return f'{up}{there.page}{mark}'

def anchor(name, there):
    "The id of a name's heading: as nbdev's index has it, in small letters, but where `Cut` stands beside `cut`"
    twice = sum(n.lower() == name.lower() for n in there.names) > 1
    return name if twice else name.lower()

# Processors: nbdev hands them each page

class Links(Processor):
    "Link names in backticks, in prose and docstrings; in the place of nbdev's `add_links`, which looks them up bare"
    here = None   # The room of the page at work, for `Signature`
    def __init__(self, nb):
        super().__init__(nb)
        path = Path(nb.path_).resolve()
        page = path.relative_to(NBS).as_posix() if path.is_relative_to(NBS) else ''
        self.here = Links.here = rooms().get(page)
    def cell(self, cell):
        if not self.here: return
        if cell.cell_type == 'markdown': cell.source = self.linked(cell.source)
        for o in cell.get('outputs', []):
            data = o.get('data', {})
            if 'text/markdown' in data: data['text/markdown'] = self.linked(''.join(data['text/markdown']))
    def linked(self, text):
        lines, fenced = text.split('\n'), False
        for i, line in enumerate(lines):
            if line.lstrip().startswith('```'): fenced = not fenced
            elif not fenced and line.startswith('#'): lines[i] = self.heading(line)
            elif not fenced and not line.startswith('    '): lines[i] = self.line(line)
        return '\n'.join(lines)
    def heading(self, line):
        "A heading that pandoc would give the id of a name's heading gets another id"
        mark = re.sub(r'[^\w-]', '', line.lstrip('# ').lower().replace(' ', '-'))
        taken = [anchor(n, self.here) for n in self.here.names]
        return f'{line} {{#on-{mark}}}' if mark in taken and '{#' not in line else line
    def line(self, line):
        # what is a link already, or spans that hold more than a name, stay
        def one(m):
            target = m['name'] and link(m['name'], self.here)
            return f'[{m[0]}]({target})' if target else m[0]
        return re.sub(r'\[[^\]]*\]\([^)]*\)|``.*?``|`(?P<name>[A-Za-z][\w.]*\w)(?:\(\))?`|`[^`]*`', one, line)

def unmeasured(cell):
    "Quarto wraps a cell that has `execution` times in a Div, and headings in a Div are not in the page's contents"
    if cell.cell_type == 'code': cell.metadata.pop('execution', None)

# Signatures

class Shown:
    "Text that stands in an annotation as it is"
    def __init__(self, text): self.text = text
    def __repr__(self): return self.text

def readable(annotation):
    "An annotation as one would write it: `Path`, not `pathlib.Path` or `__main__.Path`"
    if annotation is empty: return annotation
    annotation = ann_parts(annotation)[0]
    if inspect.isfunction(annotation): return Shown(annotation.__name__)   # argparse's converters
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    parts = re.split(r"('[^']*')", text.replace('NoneType', 'None'))
    return Shown(''.join(p if p[:1] == "'" else re.sub(r'\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])', '', p) for p in parts))

def abridged(default):
    "A default as one would write it: of a long row of numbers the ends"
    long = isinstance(default, tuple | list) and len(default) > 8
    return Shown(f'({default[0]!r}, {default[1]!r}, …, {default[-1]!r})') if long else default

def filled(parts, indent, width):
    "Parts of a line, as many as fit into each"
    lines = [indent + parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 1 > width: lines.append(indent + part)
        else: lines[-1] += f' {part}'
    return lines

def narrow(
    text, # A signature
    width=100, # Columns: longer lines are cut off on the page
):
    "The same with no line longer than that: a comment that is too long stands above what it is of"
    lines = []
    # a comment of several lines goes on below its parameter
    for block in re.findall(r'^.*(?:\n +#.*)*', text, re.M):
        code, *comments = re.split(r' # |\n +# ?', block)
        indent, comment = re.match(' *', code)[0], ' '.join(comments)
        whole = f'{code} # {comment}' if comment else code
        if len(whole) <= width: lines.append(whole)
        elif not comment: lines += filled(re.split(r'(?<=,) (?=\w+:|\*)', code.strip()), indent, width)
        else:
            said = textwrap.indent(textwrap.fill(comment, width - 8), f'{indent or "    "}# ').split('\n')
            lines += [code, *said] if code.startswith(')') else [*said, code]   # below it, of what comes back
    return '\n'.join(lines)

class Text(DocmentText):
    "A signature for people: short types, short lines, and of a class only the parameters that are its own"
    def __init__(self, obj, **kwargs):
        super().__init__(obj, **kwargs)
        self.cls = obj if inspect.isclass(obj) else None
        for p in self.dm.values():
            p['anno'] = readable(p['anno'])
            if getattr(p.get('default'), '__name__', '') == '<lambda>': p['default'] = Shown('lambda ...')
            if 'default' in p: p['default'] = abridged(p['default'])
        if not self.cls: return
        self.dm.pop('return', None)
        made = next(c for c in self.cls.__mro__ if '__init__' in vars(c) or '__new__' in vars(c))
        if made is not self.cls and made.__module__.split('.')[0] not in (PACKAGE, '__main__'): self.dm.clear()
        for name, p in self.dm.items():
            if repr(p['default']) == '<factory>': p['default'] = self.made_anew(name)
    def made_anew(self, name):
        "What a dataclass's field begins with"
        made = next(f.default_factory() for f in dataclasses.fields(self.cls) if f.name == name)
        return Shown('no rows') if hasattr(made, 'columns') else made   # a table is not to be compared with a default
    def __str__(self):
        text = narrow(super().__str__())
        # a converter of argparse has `int|all` for a name, which help shows
        if not self.cls: return re.sub(r'^((?:async )?def )[^(]*\(', rf'\1{self.obj.__qualname__}(', text)
        bases = ', '.join(b.__name__ for b in self.cls.__bases__ if b is not object)
        if not self.params: return f'class {self.cls.__name__}' + f'({bases})' * bool(bases)
        return re.sub(r'\):$', ')', 'class' + text.removeprefix('def'))
    __repr__ = __str__

class Signature(MarkdownRenderer):
    "What `show_doc` shows of a name: the link to its lines, a heading with its anchor, signature, docstring"
    def __init__(self, sym, name=None, title_level=3, maxline=100):
        super().__init__(sym, name=name, title_level=title_level, maxline=maxline)
        if isinstance(self.dm, DocmentText): self.dm = Text(self.sym, maxline=maxline, docstring=False)
    def _repr_markdown_(self):
        mark = anchor(self.nm, Links.here) if Links.here else self.nm.lower()
        parts = ['---', self.source(), f'{"#" * self.title_level} {self.nm} {{#{mark}}}']
        return '\n\n'.join([p for p in parts if p] + [super()._repr_markdown_()])
    def source(self):
        "The link to the lines of the definition, in the module of this page"
        here = Links.here
        if not here or self.nm not in here.names: return ''
        file = here.module.replace('.', '/') + '.py'
        definitions = parsed((ROOT/file).read_text(encoding='utf-8'))
        line = next(d.lineno for d in definitions if getattr(d, 'name', '') == self.nm)
        cfg = get_config()
        where = f'{cfg.git_url}/blob/{cfg.branch}/{file}#L{line}'
        return f'[source]({where}){{target="_blank" style="float:right; font-size:smaller"}}'
