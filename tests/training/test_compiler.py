"""Which C++ compiler torch is given, and what happens where there is none."""

import os

import pytest
from torch import nn

from src.training import compile as compiler


@pytest.mark.parametrize(("present", "asked", "used"), [
    (("g++", "clang++"), "", "g++"), (("clang++",), "", "clang++"), (("c++",), "", "c++"), ((), "", None),
    (("g++",), "other++", None), (("other++",), "other++", "other++")])
def test_torch_is_told_the_compiler_that_was_found(monkeypatch, capsys, present, asked, used):
    monkeypatch.setenv("CXX", asked)
    if not asked:
        monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name if name in present else None)
    monkeypatch.setattr(compiler, "torch_compile", lambda model, dynamic: ("compiled", model, dynamic))
    model = nn.Linear(2, 2)
    found = compiler.compiled(model)
    said = capsys.readouterr().out
    if used is None:
        assert found is model
        assert "training goes on without it" in said
    else:
        assert found == ("compiled", model, False)
        assert os.environ["CXX"] == used
        assert said == ""
