"""Records every option of Keystone 30.0.0 as `section.option`, a line each, into upstream/settings.txt.

Run it in a throw-away venv with `pip install keystone==30.0.0`:

    python tests/golden/record_settings.py > tests/golden/upstream/settings.txt
"""

from keystone.conf import opts


def main():
    """Print all of them."""
    found = {f"{section or 'DEFAULT'}.{one.dest}" for section, many in opts.list_opts() for one in many}
    print("\n".join(sorted(found)))


if __name__ == "__main__":
    main()
