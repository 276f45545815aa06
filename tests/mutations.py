"""Small faults, one at a time, in the source of a function: what a check has to notice.

Compared are other operators, constants by one, swapped arguments and names, turned or fixed
conditions, statements and calls left out. Annotations, docstrings and the texts of errors are left
alone.
"""

import ast
import copy
from collections.abc import Iterator

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
OPERATORS = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,), ast.Pow: (ast.Mult,), ast.Mod: (ast.Mult,), ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "amin": "amax", "amax": "amin", "minimum": "maximum",
    "maximum": "minimum", "floor": "ceil", "ceil": "floor", "sum": "mean", "mean": "sum",
    "any": "all", "all": "any", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like",
    "ones_like": "zeros_like", "new_zeros": "new_ones", "new_ones": "new_zeros", "unbind": "split",
    "argmax": "argmin", "argmin": "argmax", "and": "or", "sqrt": "square", "rsqrt": "sqrt",
    "sigmoid": "tanh", "relu": "sigmoid", "var": "std",
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """All faulty forms of a function's ``source``: what was changed, and the new source."""
    tree = ast.parse(source)
    seen = {ast.unparse(tree)}
    for index in range(sum(1 for _ in _places(tree))):
        for variant in range(4):  # no place has more than four
            mutated = copy.deepcopy(tree)
            node, parent = list(_places(mutated))[index]
            statement = _statement_of(mutated, node)
            before = _first_line(statement)
            after = _mutate(node, parent, variant)
            if after is None:
                break
            new = ast.unparse(ast.fix_missing_locations(mutated))
            if new in seen:
                continue
            seen.add(new)
            shown = "(left out)" if after == "left out" else _first_line(statement)
            yield f"{before} -> {shown}", new


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(node, parent) of what can be changed, in the order of the source."""
    (function,) = tree.body
    for i, statement in enumerate(function.body):
        if i == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # the docstring
        yield from _below(statement, function)


def _below(node: ast.AST, parent: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    yield node, parent
    if isinstance(node, ast.Raise):
        return  # its text is for reading
    for name, child in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for item in child if isinstance(child, list) else [child]:
            if isinstance(item, ast.AST):
                yield from _below(item, node)


def _mutate(node: ast.AST, parent: ast.AST, variant: int) -> str | None:
    """Change ``node`` in place in the ``variant``-th way; None if there are fewer ways."""
    ways = list(_ways(node, parent))
    if variant >= len(ways):
        return None
    return ways[variant]() or "changed"


def _ways(node: ast.AST, parent: ast.AST) -> Iterator:
    def put(field, value):
        return lambda: setattr(node, field, value)

    def become(other: ast.AST):
        """``node`` is replaced by ``other`` in its parent."""

        def change():
            for name, child in ast.iter_fields(parent):
                if child is node:
                    setattr(parent, name, other)
                elif isinstance(child, list):
                    setattr(parent, name, [other if item is node else item for item in child])

        return change

    match node:
        case (
            ast.Assign()
            | ast.AugAssign()
            | ast.Expr()
            | ast.If()
            | ast.For()
            | ast.While()
            | (ast.Raise())
        ):

            def leave_out():
                become(ast.Pass())()
                return "left out"

            yield leave_out
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS.get(type(operator), ()):
                yield put("ops", [other()])
        case ast.BinOp(op=operator):
            for other in OPERATORS.get(type(operator), ()):
                yield put("op", other())
        case ast.AugAssign(op=operator):
            for other in OPERATORS.get(type(operator), ()):
                yield put("op", other())
        case ast.UnaryOp():
            yield become(node.operand)
        case ast.BoolOp(op=operator):
            yield put("op", ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.Constant(value=bool(value)):
            yield put("value", not value)
        case ast.Constant(value=int(value)):
            yield put("value", value + 1)
            yield put("value", value - 1)
        case ast.Constant(value=float(value)):
            yield put("value", value + 0.5)
            yield put("value", value - 0.5)
        case ast.If() | ast.IfExp() | ast.While():
            yield put("test", ast.UnaryOp(ast.Not(), node.test))
            yield put("test", ast.Constant(False))
        case ast.Attribute(attr=name) if name in NAMES:
            yield put("attr", NAMES[name])
        case ast.Name(id=name) if name in NAMES and isinstance(parent, ast.Call):
            yield put("id", NAMES[name])
        case ast.Tuple(elts=[first, second, *rest]) if isinstance(node.ctx, ast.Load):
            yield put("elts", [second, first, *rest])
        case ast.Call(args=[first, second, *rest]):
            yield put("args", [second, first, *rest])
    match node:
        case ast.Call(func=ast.Attribute(value=inner), args=args) if not isinstance(
            parent, ast.Expr
        ):
            if not isinstance(inner, ast.Name) or inner.id not in ("torch", "F", "math"):
                yield become(inner)  # x.clamp(min=0) -> x
            elif args:
                yield become(args[0])  # torch.floor(x) -> x
        case ast.keyword(arg="min"):
            yield put("arg", "max")


def _statement_of(tree: ast.AST, node: ast.AST) -> ast.AST:
    """The innermost statement that holds ``node``."""
    holders = [
        holder
        for holder in ast.walk(tree)
        if isinstance(holder, ast.stmt) and any(child is node for child in ast.walk(holder))
    ]
    return holders[-1] if holders else node


def _first_line(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]
