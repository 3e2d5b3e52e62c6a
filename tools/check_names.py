#!/usr/bin/env python3
"""Says which types of src/ have two definitions under one name: undefined behaviour as soon as both are in one
program, and no compiler sees it, each looking at one file (the One Definition Rule).

  tools/check_names.py [SRC]

Takes what clang-format makes of a file: types of a namespace begin in column 0.
"""

import collections
import pathlib
import re
import sys

NAMESPACE = re.compile(r"(inline )?namespace ?([\w:]*) \{")
TYPE = re.compile(r"(?:struct|class|union|enum(?: class| struct)?) (?:\[\[\w+\]\] |alignas\([^)]*\) )?"
                  r"(\w+)(?: final)?(?: [:{].*)?$")
END = "}  // namespace"


def types(text):
    """The qualified names of the types that `text` defines outside of unnamed namespaces."""
    spaces = []
    for line in text.splitlines():
        if opened := NAMESPACE.match(line):
            spaces.append(opened[2])
        elif line.startswith(END) and spaces:
            spaces.pop()
        elif (found := TYPE.match(line)) and "" not in spaces:
            yield "::".join([*spaces, found[1]])


def doubles(root):
    places = collections.defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.suffix not in (".h", ".cpp") or path.stem.endswith(("_test", "_fuzz")):
            continue
        for name in types(path.read_text(encoding="utf-8")):
            places[name].append(str(path.relative_to(root)))
    return {name: where for name, where in places.items() if len(where) > 1}


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "src"
    found = doubles(root)
    for name, where in sorted(found.items()):
        print(f"{name} is defined in {' and in '.join(where)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
