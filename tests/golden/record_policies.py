#!/usr/bin/env python3
"""Record every default policy rule that Keystone 30.0.0 registers.

Writes tests/golden/upstream/policies.json.  Run with the python of a
throw-away virtual environment:

    python3 -m venv ks30
    ks30/bin/pip install keystone==30.0.0
    ks30/bin/python tests/golden/record_policies.py [output.json]

"check_str" is the default in force (oslo.policy 6 has enforce_new_defaults
on, so "deprecated_rule" is information only: it is NOT or-ed in).
"parsed" is oslo.policy's own rendering of the parsed check.
"""

import importlib.metadata
import json
import os
import sys


def main():
    from keystone.common import policies

    rules = []
    for rule in policies.list_rules():
        old = getattr(rule, "deprecated_rule", None)
        rules.append(
            {
                "name": rule.name,
                "check_str": rule.check_str,
                "parsed": str(rule.check),
                "scope_types": rule.scope_types,
                "description": rule.description,
                "operations": [
                    {"path": op["path"], "method": op["method"]} for op in (getattr(rule, "operations", None) or [])
                ],
                "deprecated_for_removal": bool(rule.deprecated_for_removal),
                "deprecated_rule": old and {"name": old.name, "check_str": old.check_str},
            }
        )
    out = (
        sys.argv[1]
        if len(sys.argv) > 1
        else os.path.join(os.path.dirname(os.path.abspath(__file__)), "upstream", "policies.json")
    )
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(
            {
                "keystone": importlib.metadata.version("keystone"),
                "oslo.policy": importlib.metadata.version("oslo.policy"),
                "rules": rules,
            },
            f,
            indent=1,
            ensure_ascii=False,
        )
        f.write("\n")
    print(f"{len(rules)} rules -> {os.path.relpath(out)}")


if __name__ == "__main__":
    main()
