"""The first commands of the README, run one after another: benchmarks/first_steps.json has each, and what it printed.

    python benchmarks/first_steps.py radiographs clinic shufflenetv2_100.safetensors

The films have a folder per class, those of another hospital lie beside labels.csv in a folder `images`. Some minutes;
nothing here is a time. `make numbers` takes the pages' sentences from there; nbs/images/curves.png is of this study."""
import argparse, html, re, shlex, shutil, subprocess, tempfile
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    'xray_xfer check radiographs',
    'xray_xfer study radiographs --archs shufflenetv2_100 --pretrained weights.safetensors',
    'xray_xfer external study clinic/labels.csv',
    'xray_xfer predict study clinic/images --threshold COVID',
    'xray_xfer thresholds study/shufflenetv2_100_2 --by limit --prevalence COVID=0.05',
)

def run(command, folder):
    "What a command prints, line by line"
    done = subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True)   # progress goes to stderr
    if done.returncode: raise SystemExit(f'{command}\n{done.stdout}\n{done.stderr}')
    return [line for line in done.stdout.splitlines() if line.strip()]

def opening(report):
    "The sentences that a report opens with"
    text = re.search(r'<section[^>]*id="answer".*?</section>', report.read_text(encoding='utf-8'), re.S)[0]
    said = re.findall(r'<p[^>]*>(.*?)</p>', text, re.S)
    return [' '.join(html.unescape(re.sub(r'<[^>]+>', '', p)).split()) for p in said]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('films', 'clinic', 'weights'): parser.add_argument(name, type=Path)
    a = parser.parse_args()
    from xray_xfer.core.files import replacing, write_json
    from xray_xfer.core.machine import environment
    e = environment('cpu')
    about = dict(device=e['device_name'], cores=e['cores'], threads=e['threads'], date=date.today().isoformat(),
                 versions={k: e['versions'][k] for k in ('torch', 'fastai', 'timm', 'onnxruntime')})
    with tempfile.TemporaryDirectory() as tmp:
        work = Path(tmp)
        for name, there in (('radiographs', a.films), ('clinic', a.clinic), ('weights.safetensors', a.weights)):
            (work/name).symlink_to(there.resolve())
        steps = []
        for command in COMMANDS:
            steps.append(dict(command=command, printed=run(command, work)))
            if command.startswith('xray_xfer study'):
                steps[-1]['answer'] = opening(work/'study/report.html')
                shutil.copy(work/'study/shufflenetv2_100_2/curves.png', HERE.parent/'nbs/images/curves.png')
            print(f"{command}\n{chr(10).join(steps[-1]['printed'])}\n", flush=True)
            with replacing(HERE/'first_steps.json') as part: write_json(about | dict(steps=steps), part)

if __name__ == '__main__': main()
