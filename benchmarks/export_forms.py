"""What the forms of an exported run cost and gain: size, accuracy, probabilities, images per second, beside the run.

    python benchmarks/export_forms.py FOLDER --weights WEIGHTS --arch shufflenetv2_100 --depth 1 --epochs 2 --each 200

FOLDER holds a folder per class, WEIGHTS has a file ARCH.safetensors for each arch. Each arch is trained once, on so
many images of each class (0: all), then exported in float32, int8 and fp16 by `export`, with its checks. All forms
answer for the same test part, in the run's frame, and are timed in turns: one thread, batches of 4 (PyTorch 16), the
median of --rounds rounds. `--note` says under which circumstances. Writes benchmarks/export_forms.json and .md."""
import argparse, json, tempfile, time
from datetime import date
from pathlib import Path

import numpy as np, torch

from xray_xfer.core.machine import environment
from xray_xfer.data.decode import decode
from xray_xfer.data.table import images_of
from xray_xfer.evaluate.calibration import scaled
from xray_xfer.evaluate.scores import class_numbers
from xray_xfer.evaluate.tables import display_name
from xray_xfer.inference import export
from xray_xfer.inference.ensemble import load_ensemble
from xray_xfer.inference.handing import find_images
from xray_xfer.inference.portable import Portable
from xray_xfer.inference.reduced import probabilities
from xray_xfer.inference.whole import run_frame
from xray_xfer.train import run

HERE = Path(__file__).parent
FORMS = {'float32': {}, 'int8': dict(int8=True), 'fp16': dict(fp16=True)}

def asked_of(member):
    "A run as a function from pixels to probabilities"
    return lambda pixels: scaled(member(pixels).logits, member.temperature)

def asked_of_file(path):
    session = Portable.read(path).session
    return lambda pixels: probabilities(session, pixels)

def timed(ways, pixels, rounds):
    "{name: images per second}, all in turns"
    seconds = {name: [] for name in ways}
    for ask in ways.values(): ask(pixels[:16])
    for _ in range(rounds):
        for name, ask in ways.items():
            start = time.perf_counter()
            ask(pixels)
            seconds[name].append(time.perf_counter() - start)
    return {name: len(pixels) / float(np.median(s)) for name, s in seconds.items()}

def of_arch(arch, table, args, out):
    "Rows of one arch"
    weights = args.weights/f'{arch}.safetensors' if args.weights else False
    r = run(table, arch, args.depth, pretrained=weights, epochs=args.epochs, size=args.size, out=out, quiet=True)
    test = r.predictions.of('test')
    found = find_images(test.path.tolist(), table)
    frame = run_frame(r)
    pixels = np.stack([decode(found[n], *frame) for n in test.path])
    y = class_numbers(test.label, test.classes)
    ways = {f'run, {name}': asked_of(load_ensemble(r, 'cpu', backend).members[0])
            for name, backend in (('PyTorch', 'torch'), ('ONNX Runtime (predict)', 'onnxruntime'))}
    sizes, refused = dict.fromkeys(ways, (r.path/'model.safetensors').stat().st_size), {}
    for name, asked in FORMS.items():
        try: made = export(r, out/f'{arch}.{name}.onnx', data=table, device='cpu', **asked)
        except (ValueError, ArithmeticError) as e: refused[name] = str(e)
        else:
            ways[f'file, {name}'] = asked_of_file(made.path)
            sizes[f'file, {name}'] = made.path.stat().st_size
    said = {name: ask(pixels) for name, ask in ways.items()}
    first = next(iter(said.values()))
    rate = timed(ways, pixels[:args.timed], args.rounds)
    rows = [dict(arch=arch, form=name, bytes=sizes[name], n=len(y), accuracy=float((p.argmax(1) == y).mean()),
                 changed=int((p.argmax(1) != first.argmax(1)).sum()), largest=float(abs(p - first).max()),
                 images_per_second=round(rate[name], 1)) for name, p in said.items()]
    return rows, {f'{arch}, {name}': why for name, why in refused.items()}

def as_markdown(found):
    "The table, and how it was made"
    said = ['| network | form | MB | accuracy | calls changed | largest difference of a probability | images/s |',
            '|---|---|---:|---:|---:|---:|---:|']
    for r in found['rows']:
        said.append(f"| {display_name(r['arch'])} | {r['form']} | {r['bytes']/1e6:.1f} | {r['accuracy']:.4f} | "
                    f"{r['changed']} of {r['n']:,} | {r['largest']:.1e} | {r['images_per_second']:,.0f} |")
    said += ['', *(f'Refused: {name}: {why}' for name, why in found['refused'].items())]
    v, a = found['versions'], found['asked']
    images = f"{a['each']} images of each class" if a['each'] else 'all images'
    said.append(f"Depth {a['depth']}, {a['epochs']} epochs, {images}, one seed. Differences are from the run in "
                'PyTorch. '
                f"Images in the run's frame; in turns, one thread, the median of {a['rounds']} rounds of {a['timed']} "
                f"images. {found['machine']}; torch {v['torch']}, onnxruntime {v['onnxruntime']}; "
                f"{found['date']}. {a['note']}".rstrip())
    return '\n'.join(said) + '\n'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder')
    p.add_argument('--weights', type=Path)
    p.add_argument('--arch', nargs='+', default=['shufflenetv2_100'])
    for name, value in dict(depth=1, epochs=2, each=200, size=224, rounds=5, timed=64).items():
        p.add_argument(f'--{name}', type=int, default=value)
    p.add_argument('--note', default='')
    args = p.parse_args()
    torch.set_num_threads(1)
    table = images_of(args.folder)
    if args.each: table = table.groupby('label').head(args.each).reset_index(drop=True)
    rows, refused = [], {}
    with tempfile.TemporaryDirectory() as d:
        for arch in args.arch:
            of, why = of_arch(arch, table, args, Path(d))
            rows, refused = rows + of, refused | why
    here = environment()
    asked = {k: v for k, v in vars(args).items() if k not in ('folder', 'weights')}
    found = dict(rows=rows, refused=refused, asked=asked, machine=here['device_name'], versions=here['versions'],
                 date=date.today().isoformat())
    (HERE/'export_forms.json').write_text(json.dumps(found, indent=1) + '\n')
    (HERE/'export_forms.md').write_text(as_markdown(found))
    print(as_markdown(found))

if __name__ == '__main__': main()
