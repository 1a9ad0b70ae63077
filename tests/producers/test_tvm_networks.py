# SPDX-License-Identifier: Apache-2.0
"""Networks that TVM compiles, with their weights embedded, in its virtual machine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy
import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from tvm_export import MARKS, Array, Export, X, relocatable
from tvm_export import export as export

pytestmark = MARKS


def network() -> Any:
    """Return a network of Relax with its weights in it."""
    from tvm import relax
    from tvm.relax.frontend import nn

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return nn.op.softmax(self.second(nn.op.relu(self.first(x))))

    inputs = {"forward": {"x": nn.spec.Tensor((1, 64), "float32")}}
    module, parameters = Network().export_tvm(inputs)
    random = numpy.random.default_rng(1)
    weights = {
        name: random.standard_normal([int(size) for size in parameter.shape], dtype="float32")
        for name, parameter in parameters
    }
    module = relax.transform.BindParams("forward", weights)(module)
    return relax.get_pipeline("zero")(module)


def infer(module: tvm_ffi.Module) -> Array:
    """Run a network in TVM's virtual machine."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(module, tvm.cpu())
    result: Array = machine["forward"](tvm.runtime.tensor(X[None, :64])).numpy()
    return result


@pytest.mark.parametrize("mode", ["bytecode", "compiled"])
def test_a_network_with_its_constants(
    session: tol.Session, export: Export, tmp_path: Path, mode: str
) -> None:
    exported = export("network", network, exec_mode=mode)
    constants, code = exported.files
    assert (constants.name, code.name) == ("devc.o", "lib0.o")
    expected = infer(exported.dlopen())
    assert numpy.isclose(expected.sum(), 1)
    ways: list[Any] = [
        exported.tar,
        *itertools.permutations(exported.files),
        [constants.read_bytes(), code],
        relocatable(exported.files, tmp_path),
    ]
    for objects in ways:
        module = session.load_module(objects)
        assert (module.kind, len(module.imports)) == ("relax.VMExecutable", 1)
        assert infer(module).tobytes() == expected.tobytes()
        del module
    assert session.dylibs == {}


def test_the_virtual_machine_keeps_the_code(session: tol.Session, export: Export) -> None:
    import tvm
    from tvm import relax

    exported = export("network", network)
    machine = relax.VirtualMachine(session.load_module(exported.tar), tvm.cpu())
    forward = machine["forward"]
    del machine
    assert len(session.dylibs) == 1
    argument = tvm.runtime.tensor(X[None, :64])
    assert forward(argument).numpy().tobytes() == infer(exported.dlopen()).tobytes()
    session.close()
    with pytest.raises(tol.SessionClosedError):
        forward(argument)
