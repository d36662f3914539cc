"Tests marked `shared` run where the development images lie beside the repository; every test has a cache of its own."
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd, pytest

from xray_xfer.core.files import cache_dir

# as the command has it: a name need not be UTF-8, and the text of Arrow, which pandas takes where pyarrow is, must be
pd.set_option('mode.string_storage', 'python')

SHARED = Path(__file__).resolve().parents[2]/'shared'/'data'

def pytest_collection_modifyitems(items):
    # first what is minutes in one piece, then the large files: two workers end at about the same time
    size = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != 'test_outputs.py', -size[item.path], str(item.path)))
    if (SHARED/'radiographs').is_dir(): return
    for item in items:
        if 'shared' in item.keywords:
            item.add_marker(
                pytest.mark.skip(reason='needs the real X-rays in ../shared/data, which are not in the repository')
            )

@pytest.fixture(scope='session')
def shared(): return SHARED

@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    "Packs, demo images and the key of patient codes are made in temporary folders, never in the user's"
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp('cache')
    # what the pages have drawn just before is not drawn again: half a minute
    if there := sorted(cache_dir().glob('demo-0-????????'), key=lambda p: p.stat().st_mtime):
        shutil.copytree(there[-1], cache/there[-1].name)
    patch.setenv('XRAY_XFER_CACHE', str(cache))
    patch.setenv('XDG_CONFIG_HOME', str(tmp_path_factory.mktemp('config')))
    yield cache
    patch.undo()

@pytest.fixture(scope='session')
def xrays(tmp_path_factory):
    "Sixty phantoms in the Kaggle layout, with masks; for all, so nobody changes them"
    from xray_xfer.data import demo
    root = tmp_path_factory.mktemp('xrays')/'xrays'
    demo.draw(root, n=60, size=64)
    return root

@pytest.fixture
def plain_figures(request, monkeypatch):
    "Empty figures, which take no time, where a run is not about them; a test marked `drawn` gets the real ones"
    if request.node.get_closest_marker('drawn'): return
    from matplotlib.figure import Figure
    from xray_xfer import train
    names = 'calibration', 'confusion', 'errors', 'gradcam', 'operating', 'roc'
    monkeypatch.setattr(train, 'run_figures', lambda *a: {f'{n}.png': Figure(figsize=(1, 1)) for n in names})
