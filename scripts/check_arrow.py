"""Holds the Arrow files that `vlmo-train data arrow` writes against those of the original's scripts, read by pyarrow.

    check_arrow.py WRITTEN FIXTURES

WRITTEN is a folder of files made of testdata/fixtures/raw, FIXTURES is testdata/fixtures/arrow. Files of the same name
must have the same columns, types and rows, in any order. Of VQA's val the original keeps the last 1,000 pictures as
rest_val; the fixture has fewer and was cut elsewhere, so its two parts are compared together.
"""

import sys
from pathlib import Path

import pyarrow as pa


def read(path):
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.RecordBatchFileReader(source).read_all()
        table.validate(full=True)
        return table.schema.remove_metadata(), sorted(map(repr, table.to_pylist()))


def main():
    written, fixtures = map(Path, sys.argv[1:])
    names = sorted(p.name for p in fixtures.glob("*.arrow"))
    ours = sorted(p.name for p in written.glob("*.arrow"))
    if names != ours or not names:
        sys.exit(f"check_arrow: wrote {ours}, want {names}")
    parts = {"vqav2_trainable_val.arrow": [], "vqav2_rest_val.arrow": []}
    wanted = []
    for name in names:
        schema, rows = read(written / name)
        want_schema, want_rows = read(fixtures / name)
        if not schema.equals(want_schema):
            sys.exit(f"check_arrow: {name}: columns\n{schema}\nwant\n{want_schema}")
        if name in parts:
            parts[name] = rows
            wanted += want_rows
        elif rows != want_rows:
            sys.exit(f"check_arrow: {name}: rows\n{rows}\nwant\n{want_rows}")
    if sorted(sum(parts.values(), [])) != sorted(wanted):
        sys.exit("check_arrow: the parts of VQA's val differ")
    print(f"pyarrow {pa.__version__}: {len(names)} files are equal to the original's")


if __name__ == "__main__":
    main()
