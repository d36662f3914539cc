"""What only a GPU shows, in one call: python tools/gpu.py [--device cuda] [--images 21165]

Draws its images, needs no network, prints a table and writes gpu.json into the folder $OUT (or here). With --device cpu
and few images it runs anywhere, which checks this script and not a GPU."""
import argparse, json, os, shutil, tempfile, time
from dataclasses import replace
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument('--device', default='cuda')
parser.add_argument('--images', type=int, default=21165)
parser.add_argument('--epochs', type=int, default=10)
args = parser.parse_args()
work = Path(tempfile.mkdtemp())
os.environ['XRAY_XFER_CACHE'] = str(work/'cache')

import torch

from xray_xfer.trunk.cutting import cut
from xray_xfer.data.table import images_of
from xray_xfer.data.demo import draw
from xray_xfer.training.feed import feed, logits_of
from xray_xfer.core.machine import environment
from xray_xfer.training.ready import image_batches, prepare
from xray_xfer.models.classifier import build, calibrate
from xray_xfer.models.blueprint import stats
from xray_xfer.data.packing import pack
from xray_xfer.settings import Settings
from xray_xfer.study import study
from xray_xfer.train import run
from xray_xfer.trunk.engine import Engine, FromPixels

device, rows, failed = args.device, [], []
out = Path(os.environ.get('OUT', '.'))
def row(what, value):
    rows.append((what, value))
    print(f'{what:<72} {value}', flush=True)
    # what was measured stays
    (out/'gpu.json').write_text(json.dumps(dict(rows=rows, environment=env, date=time.strftime('%Y-%m-%d')), indent=1))
env = environment(device)
def sync(): torch.cuda.synchronize() if device.startswith('cuda') else None

draw(work/'phantoms', n=400, seed=0, size=224)
table = images_of(work/'phantoms')
p, norm = pack(table, quiet=True), stats('efficientnet_b0')
usual = Settings(groups=False, device=device, quiet=True)
prepared = prepare(p, usual)

for arch in ('shufflenetv2_100', 'efficientnet_b0'):
    for depth in (0, 2):
        torch.manual_seed(0)
        model = build(arch, depth, pretrained=False).to(device)
        # else random features are constants, and agree whatever is wrong
        calibrate(model, image_batches(p, range(128), norm, device))
        f32 = feed(model, prepared, replace(usual, features='float32', backend='torch'), norm)
        f16 = feed(model, prepared, usual, norm)
        images = feed(model, prepared, replace(usual, cache=False), norm)
        if (f32.trains_on, f16.trains_on, images.trains_on) != ('features', 'features', 'images'):
            failed.append(f'{arch} depth {depth} trains on {f32.trains_on}, {f16.trains_on}: {f16.note}')
        want = torch.from_numpy(logits_of(images.net, images.dls[2])).softmax(1)
        for name, f in (('float32', f32), ('float16', f16)):
            got = torch.from_numpy(logits_of(f.net, f.dls[2])).softmax(1)
            row(
                f'{arch} depth {depth}: probabilities from {name} features, largest difference',
                f'{(worst := float((got - want).abs().max())):.1e}',
            )
            row(
                f'{arch} depth {depth}: {name} features by',
                '; '.join(filter(None, (f.features[0].engine if f.features else 'images', f.note))),
            )
            if not worst < 5e-3: failed.append(f'{arch} depth {depth}, {name}: {worst:.1e}, 5e-3 is allowed')

r = [
    run(p, 'shufflenetv2_100', 1, pretrained=False, epochs=2, device=device, out=work / f'r{i}', quiet=True, **kw)
    for i, kw in enumerate((dict(), dict(cache=False)))
]
row(
    'accuracy after two epochs in ' + r[0].config['precision'] + ', cached / uncached',
    f"{r[0].metrics['accuracy']:.3f} / {r[1].metrics['accuracy']:.3f}",
)

# the trunk, against the same network compiled on data that is on the device already
for arch in ('shufflenetv2_100', 'efficientnet_b0'):
    model = build(arch, 2, pretrained=False).to(device)
    trunk = FromPixels(cut(model, 224).trunk, norm['mean'], norm['std']).to(device).eval()
    x = torch.randint(0, 256, (256 if device != 'cpu' else 8, 224, 224), dtype=torch.uint8, device=device)
    engine = Engine(trunk, (x[:3].cpu().numpy(),), 'torch', device, True)
    host = x.cpu().numpy()
    compiled = torch.compile(trunk)
    for name, f in (('engine', lambda: engine.run((host,))), ('compiled, data resident', lambda: compiled(x))):
        with (
            torch.no_grad(),
            torch.autocast(
                device.split(':')[0], torch.float16 if device != 'cpu' else torch.bfloat16, enabled=device != 'cpu'
            ),
        ):
            for _ in range(3): f()
            sync(); start = time.perf_counter()
            for _ in range(10): f()
            sync()
        row(f'{arch} trunk at depth 2, {name}: images/s', f'{10 * len(x) / (time.perf_counter() - start):,.0f}')

# the study of the report: as many images, by repetition under other names
for i in range(args.images - len(table)):
    src = Path(table.path[i % len(table)])
    os.link(src, src.with_name(f'{src.stem}-{i}{src.suffix}'))
for name in ('cold', 'warm'):
    start = time.perf_counter()
    s = study(
        work / 'phantoms',
        ('shufflenetv2_100', 'efficientnet_b0'),
        (0, 1, 2),
        pretrained=False, epochs=args.epochs, device=device, groups=False, out=work / name, quiet=True,
    )
    whole = time.perf_counter() - start
    without_figures = whole - sum(r.timings["figures"] for r in s.runs)
    row(
        f'six models, {args.images:,} images, {args.epochs} epochs, {name} (without figures {without_figures:.1f} s)',
        f'{whole:.1f} s',
    )
    for r in s.runs:
        row(
            f'    {r.name}, on {json.loads((r.path / "environment.json").read_text())["trained_on"]}',
            ', '.join(
                f'{k} {r.timings[k]:.1f}'
                for k in ('pack', 'features', 'train', 'evaluate', 'figures')
                if k in r.timings
            ),
        )
versions = ', '.join(f"{library} {env['versions'][library]}" for library in ('torch', 'fastai', 'timm'))
row('device', f"{env['device_name']}, {versions}")
shutil.rmtree(work)
raise SystemExit('\n'.join(failed) or 0)
