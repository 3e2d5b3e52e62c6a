"""Tests of check_names.py: what counts as a definition, and that src/ has none twice."""

import pathlib
import tempfile
import unittest

import check_names


class Types(unittest.TestCase):
    def types(self, *lines):
        return list(check_names.types("\n".join(lines)))

    def test_definitions(self):
        self.assertEqual(self.types("namespace a::b {", "struct One {", "};", "class Two final : public X,",
                                    "enum class Three : uint8_t { A };", "struct Four", "    : X {", "}  // namespace a::b",
                                    "union Five {"),
                         ["a::b::One", "a::b::Two", "a::b::Three", "a::b::Four", "Five"])

    def test_others(self):
        self.assertEqual(self.types("struct Known;", "struct Outer::Inner {", "class Special<void> {", "  struct Nested {",
                                    "namespace {", "struct Own {", "}  // namespace", "class Known* make();"), [])

    def test_one_name_in_two_files(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("a.h", "b.cpp", "c_test.cpp"):
                (root / name).write_text("namespace n {\nstruct Same {\n", encoding="utf-8")
            self.assertEqual(check_names.doubles(root), {"n::Same": ["a.h", "b.cpp"]})

    def test_src_has_none(self):
        root = pathlib.Path(__file__).resolve().parent.parent / "src"
        self.assertEqual(check_names.doubles(root), {})
        self.assertGreater(sum(len(self.types(path.read_text(encoding="utf-8"))) for path in root.rglob("*.h")), 300)


if __name__ == "__main__":
    unittest.main()
