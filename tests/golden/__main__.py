"""`make golden`: write everything derived again. Review reads the diff."""

from pathlib import Path

from tests.golden.derived import DERIVED

ROOT = Path(__file__).parents[2]

for name, render in DERIVED.items():
    path = ROOT / name
    path.parent.mkdir(exist_ok=True)
    changed = not path.exists() or path.read_text() != render()
    path.write_text(render())
    print(f"{'wrote' if changed else 'kept '} {name}")
