"Hand settings.ini to setuptools: edit metadata there, not here."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_path']
readme = (root/'README.md').read_text(encoding='utf-8')
# on another page than the repository's, links to its files lead nowhere
readme = re.sub(r'(!\[[^]]*\]\()(?!http)', rf"\g<1>{cfg['git_url']}/raw/main/", readme)
readme = re.sub(r'(\]\()(?!http|#)', rf"\g<1>{cfg['git_url']}/blob/main/", readme)
end = '_requirements'
extras = {key.removesuffix(end): cfg[key].split() for key in cfg if key.endswith(end)}
# whoever develops has every extra but Ray, which is large: its slow tests skip without it
extras['dev'] += sorted({r for name, needs in extras.items() if name not in ('dev', 'ray') for r in needs})

setup(
    version=cfg['version'],
    long_description=readme,
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    license=cfg['license'],
    keywords=cfg['keywords'].split(),
    classifiers=cfg['classifiers'].strip().splitlines(),
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f'{lib}={lib}._modidx:d'],
    },
    packages=find_packages(include=[lib, f'{lib}.*']),
    package_data={lib: ['py.typed']},   # its annotations are for type checkers of other code, too
)
