"""The register tiles: three small loops that LLVM must not be left to guess.

A compiler's vectoriser does not keep a block of sums in registers over a whole convolution window.
These intrinsics say it outright, in LLVM's own instructions: J pixels by V vectors of L output
channels are held in J*V registers while the window is walked, one multiply-add per register for
every input value.

The tile's shape travels as the type of an argument, ``((0,) * J, (0,) * V, (0,) * L)``: Numba
compiles one kernel per type and its cache tells them apart.

Memory is addressed by integers, in bytes; steps are in bytes too.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyconv.backend.memory import LINE

POINTER = ir.PointerType()
INT = ir.IntType(64)


class _Emitter:
    """What the tiles have in common, on top of an IRBuilder."""

    def __init__(self, builder: Any, element: Any, lanes: int) -> None:
        self.b, self.element, self.lanes = builder, element, lanes
        self.vector = ir.VectorType(element, lanes)
        self.size = 4 if isinstance(element, ir.FloatType) else 8
        kind = f"v{lanes}f{8 * self.size}"
        name = f"llvm.fabs.{kind}"
        self.absolute = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.vector, [self.vector]), name
        )
        name = f"llvm.fma.{kind}"
        self.fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )

    def at(self, address: Any, offset: Any = 0) -> Any:
        """The pointer `offset` bytes after an address."""
        if isinstance(offset, int):
            offset = INT(offset)
        pointer = address if address.type == POINTER else self.b.inttoptr(address, POINTER)
        return self.b.gep(pointer, [offset], source_etype=ir.IntType(8))

    def load(self, address: Any, offset: Any = 0) -> Any:
        return self.b.load(self.at(address, offset), align=self.size, typ=self.vector)

    def load_some(self, address: Any, count: Any) -> Any:
        """The first `count` lanes, zeros behind them; nothing else is read."""
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.size}.p0"
        bits = ir.VectorType(ir.IntType(1), self.lanes)
        kind = ir.FunctionType(self.vector, [POINTER, ir.IntType(32), bits, self.vector])
        load = cgutils.get_or_insert_function(self.b.module, kind, name)
        (zero,) = self.zeros(1)
        pointer, align = self.at(address), ir.IntType(32)(self.size)
        return self.b.call(load, [pointer, align, self.first(count), zero])

    def first(self, count: Any) -> Any:
        """Which lanes are before the lane `count`?"""
        lane, short = ir.VectorType(ir.IntType(32), self.lanes), ir.IntType(32)
        count = self.b.trunc(count, short)
        return self.b.icmp_signed("<", lane(list(range(self.lanes))), self.splat(count, lane))

    def store(self, value: Any, address: Any, offset: Any = 0) -> None:
        self.b.store(value, self.at(address, offset), align=self.size)

    def store_some(self, value: Any, address: Any, offset: Any, count: Any) -> None:
        """The first `count` lanes only; none or all of them, too."""
        name = f"llvm.masked.store.v{self.lanes}f{8 * self.size}.p0"
        bits = ir.VectorType(ir.IntType(1), self.lanes)
        kind = ir.FunctionType(ir.VoidType(), [self.vector, POINTER, ir.IntType(32), bits])
        store = cgutils.get_or_insert_function(self.b.module, kind, name)
        pointer = self.at(address, offset)
        self.b.call(store, [value, pointer, ir.IntType(32)(self.size), self.first(count)])

    def splat(self, scalar: Any, kind: Any = None) -> Any:
        kind = kind or self.vector
        single = self.b.insert_element(kind(ir.Undefined), scalar, ir.IntType(32)(0))
        zeros = ir.VectorType(ir.IntType(32), kind.count)([0] * kind.count)
        return self.b.shuffle_vector(single, kind(ir.Undefined), zeros)

    def shuffle(self, x: Any, y: Any, lanes: list[int]) -> Any:
        """A vector of lanes of x and, from L on, of y."""
        return self.b.shuffle_vector(x, y, ir.VectorType(ir.IntType(32), self.lanes)(lanes))

    def broadcast(self, address: Any, offset: Any = 0) -> Any:
        """A vector of one number from memory."""
        return self.splat(self.b.load(self.at(address, offset), align=self.size, typ=self.element))

    def spread(self, address: Any, count: int, depthwise: bool) -> list[Any]:
        """What `count` vectors of weights are multiplied with: one number, or as many others."""
        if depthwise:
            return [self.load(address, v * self.lanes * self.size) for v in range(count)]
        return [self.broadcast(address)] * count

    def zeros(self, count: int) -> list[Any]:
        return [self.vector([0.0] * self.lanes)] * count

    def scaled(self, factor: float, x: Any) -> Any:
        """factor * x"""
        return self.b.fmul(x, self.vector([factor] * self.lanes))

    def scaled_sum(self, x: Any, factor: float, y: Any) -> Any:
        """x * factor + y"""
        return self.b.call(self.fma, [x, self.vector([factor] * self.lanes), y])

    def size_of(self, lines: list[list[Any]], weights: tuple[float, ...]) -> Any:
        """In every lane the sum of the squares, each line's times its weight."""
        groups: dict[float, Any] = {}
        for weight, line in zip(weights, lines, strict=True):
            for value in line:
                if weight in groups:
                    groups[weight] = self.b.call(self.fma, [value, value, groups[weight]])
                else:
                    groups[weight] = self.b.fmul(value, value)
        total = groups.pop(1)
        for weight, group in groups.items():
            total = self.scaled_sum(group, weight, total)
        return total

    def magnitude(self, x: Any) -> Any:
        """|x|"""
        return self.b.call(self.absolute, [x])

    def least(self, values: list[Any]) -> Any:
        """In every lane the least number; of a NaN and a number either."""
        while len(values) > 1:  # in pairs: no long chain
            pairs = zip(values[::2], values[1::2], strict=False)
            odd = values[len(values) // 2 * 2 :]
            values = [
                self.b.select(self.b.fcmp_ordered("<", a, b), a, b) for a, b in pairs
            ] + odd
        return values[0]

    def prefetch(self, address: Any, step: Any, to_write: bool = False) -> Any:
        """Have a cache line brought from memory while something else is computed.

        The address `step` bytes further.  Nothing is read: the address need not exist.
        """
        short = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [POINTER, short, short, short])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        # What is written soon goes to the first cache (3), what is read later to the second (2).
        how = (1, 3, 1) if to_write else (0, 2, 1)
        self.b.call(function, [self.at(address), *(short(number) for number in how)])
        return self.b.add(address, step)

    def loop(self, count: Any, state: list[Any], body: Any) -> list[Any]:
        """``for i in range(count): state = body(i, state)``, the state in registers."""
        b = self.b
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT)
        i.add_incoming(INT(0), before)
        phis = [b.phi(value.type) for value in state]
        for phi, value in zip(phis, state, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, count), inside, after)
        b.position_at_end(inside)
        result = body(i, phis)
        for phi, value in zip(phis, result, strict=True):
            phi.add_incoming(value, b.block)
        i.add_incoming(b.add(i, INT(1)), b.block)
        b.branch(head)
        b.position_at_end(after)
        return phis


def _counts(shape: Any) -> tuple[int, int, int, bool]:
    j, v, lanes, kind = shape
    return j.count, v.count, lanes.count, kind.count == 2


@intrinsic
def address(typing, array):
    """Of an array's first number.  NumPy's is unsigned, which Numba adds to integers as floats."""

    def generate(context, builder, signature, args):
        numbers = context.make_array(signature.args[0])(context, builder, *args)
        return builder.ptrtoint(numbers.data, INT)

    return types.intp(array), generate


@intrinsic
def prefetch_to_write(typing, address, lines):
    """Have so many cache lines brought that will be written; the address behind them."""

    def generate(context, builder, signature, args):
        address, lines = args
        e = _Emitter(builder, ir.FloatType(), 1)

        def line(i, state):
            (there,) = state
            return [e.prefetch(there, INT(LINE), to_write=True)]

        return e.loop(lines, [address], line)[0]

    return types.intp(types.intp, types.intp), generate


@intrinsic
def window(typing, shape, like, x, x_step, taps, n_taps, run, w, y, y_step, channels, ahead, pace):
    """y[j, o] = sum over t, r of x[j, taps[t] + r] * w[t, r, o] for J pixels, V*L channels o.

    x, y: addresses of the first pixel, whose successors are `x_step`, `y_step` bytes further;
    taps: address of int64 offsets in bytes; w: packed (n_taps, run, V*L); channels: how many of
    the V*L are stored.  `like` is an array whose element type is the numbers'.  At each number
    of each run the address `ahead` is prefetched and moves on by `pace` bytes; it is returned.
    """
    J, V, L, depthwise = _counts(shape)

    def generate(context, builder, signature, args):
        _, _, x, x_step, taps, n_taps, run, w, y, y_step, channels, ahead, pace = args
        e = _Emitter(builder, context.get_value_type(like.dtype), L)
        vectors = V * L * e.size
        # An x86 address is base + {1, 2, 4, 8} * step: a pointer for every third pixel is enough
        # to reach all of them, and few enough to stay in registers.
        bases = [builder.mul(x_step, INT(j)) for j in range(0, J, 3)]
        steps = [INT(0), x_step, builder.mul(x_step, INT(2))]

        def tap(t, state):
            start = builder.add(x, builder.load(e.at(taps, builder.mul(t, INT(16))), typ=INT))

            def value(r, state):
                (*sums, weights, ahead), near = state[: J * V + 2], state[J * V + 2 :]
                rows = [e.load(weights, v * L * e.size) for v in range(V)]
                for j in range(J):
                    number = e.at(near[j // 3], steps[j % 3])
                    for v, numbers in enumerate(e.spread(number, V, depthwise)):
                        k = j * V + v
                        sums[k] = builder.call(e.fma, [numbers, rows[v], sums[k]])
                near = [builder.add(pointer, INT(e.size)) for pointer in near]
                ahead = e.prefetch(ahead, pace)
                return [*sums, builder.add(weights, INT(vectors)), ahead, *near]

            near = [builder.add(start, base) for base in bases]
            return e.loop(run, [*state, *near], value)[: J * V + 2]

        *sums, _, behind = e.loop(n_taps, [*e.zeros(J * V), w, ahead], tap)
        whole = builder.icmp_signed(">=", channels, INT(V * L))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for k, total in enumerate(sums):
                    target = builder.add(y, builder.mul(y_step, INT(k // V)))
                    e.store(total, target, k % V * L * e.size)
            with otherwise:
                for k, total in enumerate(sums):
                    count = builder.sub(channels, INT(k % V * L))
                    target = builder.add(y, builder.mul(y_step, INT(k // V)))
                    e.store_some(total, target, k % V * L * e.size, count)
        return behind

    return types.intp(shape, like, *(types.intp,) * 11), generate


@intrinsic
def weight(
    typing,
    shape,
    like,
    x,
    x_next,
    x_row,
    x_step,
    g,
    g_row,
    g_step,
    rows,
    columns,
    out,
    out_step,
    skip,
    ahead,
    pace,
):
    """out[r, o] += sum over pixels p of x[p, r] * g[p, o] for J numbers r and V*L channels o.

    The numbers are `x_next` bytes apart.  The pixels are `rows` times `columns`, `x_row` and
    `x_step` bytes apart in x.  Rows r < skip are left alone.  At each pixel the two
    addresses `ahead` are prefetched and move on by the two of `pace`; they are returned.
    """
    J, V, L, depthwise = _counts(shape)

    def generate(context, builder, signature, args):
        _, _, x, x_next, x_row, x_step, g, g_row, g_step, rows, columns, *target = args
        out, out_step, skip, ahead, pace = target
        ahead, pace = (cgutils.unpack_tuple(builder, pair) for pair in (ahead, pace))
        e = _Emitter(builder, context.get_value_type(like.dtype), L)

        def row(i, state):
            start = [builder.add(x, builder.mul(x_row, i)), builder.add(g, builder.mul(g_row, i))]

            def pixel(p, state):
                *sums, x_ahead, g_ahead, xp, gp = state
                vectors = [e.load(gp, v * L * e.size) for v in range(V)]
                for j in range(J):
                    number = e.at(xp, builder.mul(x_next, INT(j)))
                    for v, numbers in enumerate(e.spread(number, V, depthwise)):
                        k = j * V + v
                        sums[k] = builder.call(e.fma, [numbers, vectors[v], sums[k]])
                ahead = e.prefetch(x_ahead, pace[0]), e.prefetch(g_ahead, pace[1])
                return [*sums, *ahead, builder.add(xp, x_step), builder.add(gp, g_step)]

            return e.loop(columns, [*state, *start], pixel)[:-2]

        *sums, x_behind, g_behind = e.loop(rows, [*e.zeros(J * V), *ahead], row)
        for j in range(J):
            target = builder.add(out, builder.mul(out_step, INT(j)))
            with builder.if_then(builder.icmp_signed("<=", skip, INT(j))):
                for v in range(V):
                    offset = v * L * e.size
                    total = builder.fadd(e.load(target, offset), sums[j * V + v])
                    e.store(total, target, offset)
        return context.make_tuple(builder, signature.return_type, [x_behind, g_behind])

    pair = types.UniTuple(types.intp, 2)
    return pair(shape, like, *(types.intp,) * 12, pair, pair), generate


@intrinsic
def copy(typing, target, source, size):
    """Copy `size` bytes from one address to another."""

    def generate(context, builder, signature, args):
        target, source, size = args
        target, source = (builder.inttoptr(address, POINTER) for address in (target, source))
        cgutils.raw_memcpy(builder, target, source, size, 1, align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def transpose(typing, lanes, like, source, row, rows, columns, target, column, stored):
    """target[j, i] = source[i, j] for i < rows, 0 for the others; rows and columns count up to L.

    row, column: bytes from one row of the source, and of the target, to the next; stored: numbers
    of each row of the target that are written, L or `rows`.
    """

    def generate(context, builder, signature, args):
        _, _, source, row, rows, columns, target, column, stored = args
        e = _Emitter(builder, context.get_value_type(like.dtype), lanes.count)
        L, b = e.lanes, builder
        starts = [b.add(source, b.mul(row, INT(i))) for i in range(L)]
        with b.if_else(b.icmp_signed(">=", rows, INT(L))) as (all_rows, some_rows):
            with all_rows:
                whole = [e.load_some(start, columns) for start in starts]
                whole_end = b.block
            with some_rows:  # one that does not exist has no columns
                existing = [b.icmp_signed("<", INT(i), rows) for i in range(L)]
                counts = [b.select(there, columns, INT(0)) for there in existing]
                part = [e.load_some(*each) for each in zip(starts, counts, strict=True)]
                part_end = b.block
        vectors = []
        for one, other in zip(whole, part, strict=True):
            vector = b.phi(e.vector)
            vector.add_incoming(one, whole_end)
            vector.add_incoming(other, part_end)
            vectors.append(vector)
        half = L // 2
        while half:  # swap the upper right and the lower left quarter of every square
            for i in range(L):
                if not i & half:
                    pair = vectors[i], vectors[i + half]
                    upper = [k if not k & half else L + k - half for k in range(L)]
                    lower = [k + half if not k & half else L + k for k in range(L)]
                    vectors[i], vectors[i + half] = (e.shuffle(*pair, m) for m in (upper, lower))
            half //= 2
        for j, vector in enumerate(vectors):
            with b.if_then(b.icmp_signed("<", INT(j), columns)):
                e.store_some(vector, target, b.mul(column, INT(j)), stored)
        return context.get_dummy_value()

    return types.void(lanes, like, *(types.intp,) * 7), generate


# Winograd's transforms of F(4x4, 3x3), L channels each (see winograd.py). `lanes` is (0,) * L.

ROOT = 0.5**0.5  # the points are 0, -+ROOT, -+2 ROOT and infinity


def _differences(e: _Emitter, d: list[Any]) -> list[Any]:
    """B^T d: six numbers from six."""
    inner, outer = e.scaled_sum(d[2], -2, d[4]), e.scaled_sum(d[2], -0.5, d[4])
    inner_odd = e.scaled(ROOT, e.scaled_sum(d[1], -2, d[3]))
    outer_odd = e.scaled(2 * ROOT, e.scaled_sum(d[1], -0.5, d[3]))
    b = e.b
    return [
        b.fadd(e.scaled_sum(d[2], -2.5, d[0]), d[4]),
        *(b.fadd(inner, inner_odd), b.fsub(inner, inner_odd)),
        *(b.fadd(outer, outer_odd), b.fsub(outer, outer_odd)),
        b.fadd(e.scaled_sum(d[3], -2.5, d[1]), d[5]),
    ]


def _sums(e: _Emitter, m: list[Any]) -> list[Any]:
    """A^T m: four numbers from six."""
    b = e.b
    inner, outer = b.fadd(m[1], m[2]), b.fadd(m[3], m[4])
    inner_odd, outer_odd = b.fsub(m[1], m[2]), b.fsub(m[3], m[4])
    return [
        b.fadd(m[0], b.fadd(inner, outer)),
        e.scaled(ROOT, e.scaled_sum(outer_odd, 2, inner_odd)),
        e.scaled_sum(outer, 2, e.scaled(0.5, inner)),
        e.scaled_sum(outer_odd, 4 * ROOT, e.scaled_sum(inner_odd, ROOT / 2, m[5])),
    ]


def _spreads(e: _Emitter, g: list[Any]) -> list[Any]:
    """A g: six numbers from four."""
    b = e.b
    inner, outer = e.scaled_sum(g[2], 0.5, g[0]), e.scaled_sum(g[2], 2, g[0])
    inner_odd = e.scaled(ROOT, e.scaled_sum(g[3], 0.5, g[1]))
    outer_odd = e.scaled(2 * ROOT, e.scaled_sum(g[3], 2, g[1]))
    return [
        g[0],
        *(b.fadd(inner, inner_odd), b.fsub(inner, inner_odd)),
        *(b.fadd(outer, outer_odd), b.fsub(outer, outer_odd)),
        g[3],
    ]


def _filter_spreads(e: _Emitter, w: list[Any]) -> list[Any]:
    """G w: six numbers from three."""
    b = e.b
    inner, inner_odd = (
        e.scaled(-2 / 3, e.scaled_sum(w[2], 0.5, w[0])),
        e.scaled(-2 * ROOT / 3, w[1]),
    )
    outer, outer_odd = e.scaled(1 / 6, e.scaled_sum(w[2], 2, w[0])), e.scaled(ROOT / 3, w[1])
    return [
        w[0],
        *(b.fadd(inner, inner_odd), b.fsub(inner, inner_odd)),
        *(b.fadd(outer, outer_odd), b.fsub(outer, outer_odd)),
        w[2],
    ]


def _filter_sums(e: _Emitter, t: list[Any]) -> list[Any]:
    """G^T t: three numbers from six."""
    b = e.b
    inner, outer = e.scaled(-2 / 3, b.fadd(t[1], t[2])), e.scaled(1 / 6, b.fadd(t[3], t[4]))
    inner_odd, outer_odd = b.fsub(t[1], t[2]), b.fsub(t[3], t[4])
    return [
        b.fadd(t[0], b.fadd(inner, outer)),
        e.scaled(ROOT / 3, e.scaled_sum(inner_odd, -2, outer_odd)),
        e.scaled_sum(inner, 0.5, e.scaled_sum(outer, 2, t[5])),
    ]


def _columns(e: _Emitter, transform: Any, square: list[list[Any]]) -> list[list[Any]]:
    """The transform of each column."""
    return [transform(e, [row[j] for row in square]) for j in range(len(square[0]))]


def _both_ways(e: _Emitter, transform: Any, square: list[list[Any]]) -> list[list[Any]]:
    """The transform of the columns, then of the rows."""
    return _rows(e, transform, _columns(e, transform, square))


def _rows(e: _Emitter, transform: Any, columns: list[list[Any]]) -> list[list[Any]]:
    return [transform(e, [column[i] for column in columns]) for i in range(len(columns[0]))]


def _store_tile(e: _Emitter, square: list[list[Any]], out: Any, step: Any) -> None:
    for k, value in enumerate(value for row in square for value in row):
        e.store(value, out, e.b.mul(step, INT(k)))


def _load_tile(e: _Emitter, size: int, source: Any, step: Any) -> list[list[Any]]:
    return [
        [e.load(source, e.b.mul(step, INT(size * i + j))) for j in range(size)] for i in range(size)
    ]


# What rounding may have made of a sum, found out afterwards (see winograd.py).  Squares take fewer
# instructions than absolute values; those that overflow or vanish are not clear, which is right.


def _clear(e: _Emitter, least: Any, scale: Any, vague: float) -> Any:
    """Are all lanes clear of rounding, and one of them of a size with its tile?

    least: the smallest magnitude of what was computed; scale: the squares of what it was made of,
    added up.  vague: what part of the scale may be rounding.  NaN and infinity are not clear.
    """
    part = 2.0**-6 if e.lanes >= 4 else 2.0**-8
    least = e.b.fmul(least, least)
    every = e.b.fcmp_ordered(">", e.scaled(vague**-2, least), scale)
    some = e.b.fcmp_ordered(">", least, e.scaled(part**2, scale))
    bits = ir.IntType(e.lanes)
    every, some = (e.b.bitcast(mask, bits) for mask in (every, some))
    all_of_them = e.b.icmp_unsigned("==", every, bits(-1))
    return e.b.and_(all_of_them, e.b.icmp_unsigned("!=", some, bits(0)))


def _unless(e: _Emitter, there: Any) -> Any:
    """A large number where nothing is there, else 0."""
    large = 2.0**60 if e.size == 4 else 2.0**500
    number = e.b.select(there, e.element(0.0), e.element(large))
    return e.splat(number, e.vector)


def _from_tile_to_tile(transform: Any, size: int) -> Any:
    """An intrinsic's code generator: size*size vectors, `step_in` apart, through a transform."""

    def generate(context, builder, signature, args):
        lanes, like, *_ = signature.args
        _, _, source, step_in, target, step_out = args
        e = _Emitter(builder, context.get_value_type(like.dtype), lanes.count)
        square = _load_tile(e, size, source, step_in)
        _store_tile(e, _both_ways(e, transform, square), target, step_out)
        return context.get_dummy_value()

    return generate


@intrinsic
def winograd_weights(typing, lanes, like, w, step_w, u, step_u):
    """G w G^T: 36 vectors `step_u` bytes apart from the 9 of w."""
    signature = types.void(lanes, like, *(types.intp,) * 4)
    return signature, _from_tile_to_tile(_filter_spreads, 3)


@intrinsic
def winograd_weight_gradient(typing, lanes, like, t, step_t, dw, step_dw):
    """G^T t G: 9 vectors from 36.  Returns whether all of them are `_clear`."""

    def generate(context, builder, signature, args):
        _, _, t, step_t, dw, step_dw = args
        e = _Emitter(builder, context.get_value_type(like.dtype), lanes.count)
        columns = _columns(e, _filter_sums, _load_tile(e, 6, t, step_t))
        scale = e.size_of(columns, (1, 4 / 9, 4 / 9, 1 / 9, 1 / 9, 1))  # G's largest, squared
        taps = _rows(e, _filter_sums, columns)
        _store_tile(e, taps, dw, step_dw)
        least = e.least([e.magnitude(tap) for line in taps for tap in line])
        return _clear(e, least, scale, 2.0**-19 if e.size == 4 else 2.0**-48)

    return types.boolean(lanes, like, *(types.intp,) * 4), generate


@intrinsic
def winograd_input(typing, lanes, like, x, row, pixel, out, step):
    """B^T d B of the 6x6 pixels d from address x on; the 36 results are `step` bytes apart."""

    def generate(context, builder, signature, args):
        _, _, x, row, pixel, out, step = args
        e = _Emitter(builder, context.get_value_type(like.dtype), lanes.count)
        lines = [builder.add(x, builder.mul(row, INT(i))) for i in range(6)]
        steps = [builder.mul(pixel, INT(j)) for j in range(6)]
        square = [[e.load(line, at) for at in steps] for line in lines]
        _store_tile(e, _both_ways(e, _differences, square), out, step)
        return context.get_dummy_value()

    return types.void(lanes, like, *(types.intp,) * 5), generate


@intrinsic
def winograd_gradient(typing, lanes, like, g, row, pixel, rows, columns, out, step):
    """A g A^T of the 4x4 pixels g, of which `rows` and `columns` exist; the others are zero."""

    def generate(context, builder, signature, args):
        _, _, g, row, pixel, rows, columns, out, step = args
        e = _Emitter(builder, context.get_value_type(like.dtype), lanes.count)
        (zero,) = e.zeros(1)
        # A pixel that does not exist is read from where one does.
        down, right = (
            [
                (there, builder.select(there, builder.mul(distance, INT(i)), INT(0)))
                for i in range(4)
                for there in [builder.icmp_signed(">", n, INT(i))]
            ]
            for n, distance in ((rows, row), (columns, pixel))
        )
        square = [
            [
                builder.select(builder.and_(below, beside), e.load(builder.add(g, i), j), zero)
                for beside, j in right
            ]
            for below, i in down
        ]
        _store_tile(e, _both_ways(e, _spreads, square), out, step)
        return context.get_dummy_value()

    return types.void(lanes, like, *(types.intp,) * 7), generate


@intrinsic
def winograd_output(typing, lanes, like, m, step, y, row, pixel, rows, columns):
    """The 4x4 pixels A^T m A, of which `rows` and `columns` are stored.

    Returns bits: which of the rows stored are not `_clear` and have to be computed otherwise.
    """

    def generate(context, builder, signature, args):
        _, _, m, step, y, row, pixel, rows, columns = args
        e = _Emitter(builder, context.get_value_type(like.dtype), lanes.count)
        columns_of = _columns(e, _sums, _load_tile(e, 6, m, step))
        scale = e.size_of(columns_of, (1, 1, 1, 8, 8, 1))  # the largest of A^T, squared
        vague = 2.0**-18 if e.size == 4 else 2.0**-47
        pixels = _rows(e, _sums, columns_of)
        # Pixels that do not exist are not looked at: as if they were large.
        beside = [_unless(e, builder.icmp_signed(">", columns, INT(j))) for j in range(1, 4)]
        unclear: Any = INT(0)
        for i in range(4):
            line = builder.add(y, builder.mul(row, INT(i)))
            there = builder.icmp_signed(">", rows, INT(i))
            with builder.if_then(there):
                for j in range(4):
                    with builder.if_then(builder.icmp_signed(">", columns, INT(j))):
                        e.store(pixels[i][j], line, builder.mul(pixel, INT(j)))
            first, *others = map(e.magnitude, pixels[i])
            others = [builder.fadd(q, more) for q, more in zip(others, beside, strict=True)]
            failed = builder.not_(_clear(e, e.least([first, *others]), scale, vague))
            bit = builder.select(builder.and_(there, failed), INT(1 << i), INT(0))
            unclear = builder.or_(unclear, bit)
        return unclear

    return types.intp(lanes, like, *(types.intp,) * 7), generate
