"What happens where a package is not installed: what needs it says what to install, and everything else runs."
import subprocess, sys

import numpy as np, pytest, torch
from torch import nn

from xray_xfer.trunk.engine import Engine, FromPixels

@pytest.fixture(scope='module')
def trunk():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32), np.uint8)
    return FromPixels(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), [.5] * 3, [.2] * 3), pixels

def test_rooms_load_without_the_extras():
    code = ('import sys; sys.modules.update(kagglehub=None, openpyxl=None, pyarrow=None, pydicom=None); '
            'import xray_xfer.data.table, xray_xfer.train; from xray_xfer.cli import main; main(["--help"])')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True, capture_output=True)

def test_without_onnxruntime_pytorch_runs_the_trunk_and_says_so(trunk, monkeypatch):
    "It is required, as the default engine on a CPU; where a system has no wheel of it, a run is slower and no worse"
    module, pixels = trunk
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    engine = Engine(module, (pixels[:3],))
    assert engine.run.name == 'torch' and 'onnxruntime' in engine.note and 'PyTorch does, more slowly' in engine.note
    with torch.no_grad(): want = module(torch.from_numpy(pixels))
    got = [torch.cat(ts) for ts in zip(*engine(pixels), strict=True)]
    for a, b in zip(got, want, strict=True): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

def test_asked_for_onnxruntime_says_the_way_out(trunk, monkeypatch):
    module, pixels = trunk
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(RuntimeError, match='onnxruntime.*--backend torch'): Engine(module, (pixels[:3],), 'onnxruntime')
