#!/usr/bin/env python3
"""Checks every #include "..." of src/ and guest/ against layers.toml: an edge goes to a lower level
or stays in its own folder. Prints each offence as file:line and fails when there is one."""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
SUFFIXES = {".h", ".cpp", ".inc", ".S"}


def component_of(path, levels):
    """The longest prefix of `path` that layers.toml knows, or None."""
    parts = path.split("/")
    for end in range(len(parts) - 1, 0, -1):
        prefix = "/".join(parts[:end])
        if prefix in levels:
            return prefix
    return None


def is_allowed(source, target, include, rules):
    levels = rules["levels"]
    if source == target or levels[target] < levels[source]:
        return True
    return any(include == edge or include.startswith(edge.rstrip("/") + "/")
               for edge in rules.get("exceptions", {}).get(source, []))


def check_file(path, name, rules):
    """Yields (line, message) for every offence in one file."""
    source = component_of(name, rules["levels"])
    if source is None:
        yield 0, "its folder is not in layers.toml"
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if match is None:
            continue
        include = match.group(1)
        target = component_of(include, rules["levels"])
        if target is None:
            yield number, f'"{include}" lies in no folder of layers.toml'
        elif not is_allowed(source, target, include, rules):
            yield number, f'{source} (level {rules["levels"][source]}) may not include ' \
                          f'"{include}" (level {rules["levels"][target]})'


def sources(root):
    """(path, name as includes have it) of every source file."""
    for base in ("src", "guest"):
        for path in sorted((root / base).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path, path.relative_to(root / base).as_posix()


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    rules = tomllib.loads((root / "layers.toml").read_text(encoding="utf-8"))
    offences, count = 0, 0
    for path, name in sources(root):
        count += 1
        for line, message in check_file(path, name, rules):
            offences += 1
            print(f"{path.relative_to(root)}:{line}: {message}")
    if count == 0:
        print(f"{root}: no sources found")
        return 1
    print(f"{count} files, {offences} forbidden includes")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
