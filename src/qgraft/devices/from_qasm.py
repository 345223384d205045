"""OpenQASM 3 (and 2) in: registers, inputs, the standard gates and measurements at the end.

The text is foreign: its size is limited, expressions are read by a small grammar and never run.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass, field
from math import pi, tau

from qgraft.circuits.circuit import MAX_QUBITS, Circuit, Op, Param
from qgraft.errors import CircuitError

MAX_TEXT, MAX_EXPRESSION = 2_000_000, 200

# Our gate for each name; parameters in the same order.
GATE_OF = {
    "id": "I", "x": "X", "y": "Y", "z": "Z", "h": "H", "s": "S", "t": "T", "sx": "SX",
    "rx": "RX", "ry": "RY", "rz": "RZ", "p": "PhaseShift", "phase": "PhaseShift",
    "u1": "PhaseShift", "u3": "U3", "u": "U3", "U": "U3", "swap": "SWAP", "cx": "CNOT",
    "CX": "CNOT", "cy": "CY", "cz": "CZ", "crx": "CRX", "cry": "CRY", "crz": "CRZ",
    "cp": "ControlledPhaseShift", "cphase": "ControlledPhaseShift",
    "cu1": "ControlledPhaseShift", "cu3": "CU3", "ccx": "Toffoli",
}  # fmt: skip
# Gates that are one of ours at a fixed angle.
FIXED = {"sdg": ("PhaseShift", -pi / 2), "tdg": ("PhaseShift", -pi / 4), "sxdg": ("RX", -pi / 2)}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub}

_DECLARED = re.compile(r"(qubit|bit)\s*(?:\[\s*(\d+)\s*\])?\s+([A-Za-z_]\w*)")
_OLD = re.compile(r"(qreg|creg)\s+([A-Za-z_]\w*)\s*\[\s*(\d+)\s*\]")
_INPUT = re.compile(r"input\s+(?:float|angle)\s*(?:\[\s*\d+\s*\])?\s+([A-Za-z_]\w*)")
_MEASURE = re.compile(r"(\w+(?:\s*\[\s*\d+\s*\])?)\s*=\s*measure\s+(\w+(?:\s*\[\s*\d+\s*\])?)")
_ARROW = re.compile(r"measure\s+(\w+(?:\s*\[\s*\d+\s*\])?)\s*->\s*(\w+(?:\s*\[\s*\d+\s*\])?)")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*([A-Za-z_].*)", re.DOTALL)
_PLACE = re.compile(r"([A-Za-z_]\w*)\s*(?:\[\s*(\d+)\s*\])?")
_ANGLE = re.compile(r"a(\d{1,6})")


@dataclass
class _Program:
    qubits: dict[str, range] = field(default_factory=dict)
    bits: dict[str, range] = field(default_factory=dict)
    inputs: dict[str, Param] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    measured: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Affine:
    """`scale * name + offset`; no name for a number."""

    offset: float
    name: str = ""
    scale: float = 0.0

    def times(self, factor: float) -> _Affine:
        return _Affine(self.offset * factor, self.name, self.scale * factor)


def from_qasm(text: str) -> Circuit:
    """Return the circuit of an OpenQASM 3 or 2 program.

    Inputs called `a0`, `a1` ... become angles; all others become weights in the order they are
    declared. The circuit reads the probabilities of the measured qubits in the order of their
    bits, or of all qubits where nothing is measured.

    Raises:
        CircuitError: the text is no such program, or uses what a circuit has no word for.
    """
    if len(text) > MAX_TEXT:
        raise CircuitError(f"this OpenQASM text has {len(text):,} characters, at most {MAX_TEXT:,}")
    program = _Program()
    bare = re.sub(r"/\*.*?\*/", " ", re.sub(r"//[^\n]*", " ", text), flags=re.DOTALL)
    statements = [" ".join(part.split()) for part in bare.split(";")]
    if statements and statements[-1]:
        raise _error(statements[-1], "it does not end with a semicolon")
    for statement in filter(None, statements):
        _read(statement, program)
    n_qubits = sum(map(len, program.qubits.values()))
    if not n_qubits:
        raise CircuitError("this OpenQASM text declares no qubits")
    read = tuple(program.measured[bit] for bit in sorted(program.measured))
    return Circuit(n_qubits, tuple(program.ops), probabilities=read or tuple(range(n_qubits)))


def _error(statement: str, why: str) -> CircuitError:
    shown = statement if len(statement) <= 80 else f"{statement[:77]}..."
    return CircuitError(f"OpenQASM statement {shown!r} cannot be read: {why}")


def _read(statement: str, program: _Program) -> None:
    if re.match(r"(OPENQASM\b|include\b|barrier\b)", statement):
        return
    if found := _INPUT.fullmatch(statement):
        _declare_input(found[1], program)
    elif found := _DECLARED.fullmatch(statement):
        _declare(found[1] == "qubit", found[3], int(found[2] or 1), statement, program)
    elif found := _OLD.fullmatch(statement):
        _declare(found[1] == "qreg", found[2], int(found[3]), statement, program)
    elif found := _MEASURE.fullmatch(statement):
        _measure(found[2], found[1], statement, program)
    elif found := _ARROW.fullmatch(statement):
        _measure(found[1], found[2], statement, program)
    elif found := _CALL.fullmatch(statement):
        _call(found[1], found[2] or "", found[3], statement, program)
    else:
        raise _error(statement, "it is no declaration, gate or measurement")


def _declare_input(name: str, program: _Program) -> None:
    angle = _ANGLE.fullmatch(name)
    count = sum(param.source == "weight" for param in program.inputs.values())
    program.inputs[name] = Param("angle", int(angle[1])) if angle else Param("weight", count)


def _declare(is_qubit: bool, name: str, size: int, statement: str, program: _Program) -> None:
    table = program.qubits if is_qubit else program.bits
    start = sum(map(len, table.values()))
    if not 1 <= size <= MAX_QUBITS - (start if is_qubit else 0):
        raise _error(statement, f"a circuit has 1 to {MAX_QUBITS} qubits")
    if name in table:
        raise _error(statement, f"{name} is declared twice")
    table[name] = range(start, start + size)


def _places(text: str, table: dict[str, range], statement: str) -> list[int]:
    """Return the numbers that `q[2]`, or all of `q`, stand for."""
    found = _PLACE.fullmatch(text.strip())
    if not found or found[1] not in table:
        raise _error(statement, f"{text.strip()!r} was not declared")
    whole = table[found[1]]
    if found[2] is None:
        return list(whole)
    if int(found[2]) >= len(whole):
        raise _error(statement, f"{found[1]} has {len(whole)} places")
    return [whole[int(found[2])]]


def _measure(qubits: str, bits: str, statement: str, program: _Program) -> None:
    sources = _places(qubits, program.qubits, statement)
    targets = _places(bits, program.bits, statement)
    if len(sources) != len(targets):
        raise _error(statement, f"{len(sources)} qubits do not fit {len(targets)} bits")
    if set(sources) & set(program.measured.values()) or set(targets) & set(program.measured):
        raise _error(statement, "each qubit is measured once, into a bit of its own")
    program.measured.update(zip(targets, sources, strict=True))


def _call(name: str, inside: str, operands: str, statement: str, program: _Program) -> None:
    if name not in GATE_OF and name not in FIXED and name not in ("u2", "cu"):
        raise _error(statement, f"there is no gate {name!r} here")
    params = [_param(text, statement, program) for text in inside.split(",") if text.strip()]
    registers = [_places(text, program.qubits, statement) for text in operands.split(",")]
    count = max(map(len, registers))
    rows = [register * count if len(register) == 1 else register for register in registers]
    if any(len(row) != count for row in rows):
        raise _error(statement, "registers of different sizes")
    for qubits in zip(*rows, strict=True):
        if set(qubits) & set(program.measured.values()):
            raise _error(statement, "a gate after the measurement of its qubit")
        try:
            program.ops += _ops(name, qubits, params)
        except (CircuitError, IndexError) as error:
            raise _error(statement, str(error) or "too few parameters") from None


def _ops(name: str, qubits: tuple[int, ...], params: list[Param]) -> list[Op]:
    if name in FIXED:
        gate, angle = FIXED[name]
        return [Op(gate, qubits, (*params, Param("constant", offset=angle)))]
    if name == "u2":
        return [Op("U3", qubits, (Param("constant", offset=pi / 2), *params))]
    if name == "cu":  # a phase on the control, then the controlled gate
        *angles, phase = params
        return [Op("PhaseShift", qubits[:1], (phase,)), Op("CU3", qubits, tuple(angles))]
    return [Op(GATE_OF[name], qubits, tuple(params))]


def _param(text: str, statement: str, program: _Program) -> Param:
    if len(text) > MAX_EXPRESSION:
        raise _error(statement, f"an expression of more than {MAX_EXPRESSION} characters")
    try:
        value = _affine(ast.parse(text.strip().replace("π", "pi"), mode="eval").body, program)
        source = program.inputs.get(value.name)
        if source is None:
            return Param("constant", offset=value.offset)
        return Param(source.source, source.index, value.scale, value.offset)
    except (CircuitError, SyntaxError, ValueError, ArithmeticError, RecursionError) as error:
        raise _error(statement, f"{text.strip()!r}: {error}") from None


def _affine(node: ast.expr, program: _Program) -> _Affine:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return _Affine(float(node.value))
    if isinstance(node, ast.Name):
        if node.id in program.inputs:
            return _Affine(0.0, node.id, 1.0)
        known = {"pi": pi, "tau": tau}
        if node.id in known:
            return _Affine(known[node.id])
        raise ValueError(f"{node.id} was not declared")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _affine(node.operand, program).times(-1 if isinstance(node.op, ast.USub) else 1)
    if isinstance(node, ast.BinOp):
        return _binary(node, _affine(node.left, program), _affine(node.right, program))
    raise ValueError("only numbers, pi, inputs and + - * / are allowed")


def _binary(node: ast.BinOp, left: _Affine, right: _Affine) -> _Affine:
    if type(node.op) in OPERATORS:
        if left.name and right.name and left.name != right.name:
            raise ValueError("one input per parameter")
        combine = OPERATORS[type(node.op)]
        return _Affine(
            combine(left.offset, right.offset),
            left.name or right.name,
            combine(left.scale, right.scale),
        )
    if isinstance(node.op, ast.Mult) and not (left.name and right.name):
        return left.times(right.offset) if left.name else right.times(left.offset)
    if isinstance(node.op, ast.Div) and not right.name:
        return left.times(1 / right.offset)
    raise ValueError("a parameter is a number times one input plus a number")
