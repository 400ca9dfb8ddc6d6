// The heavy kernels for a GPU.  tinyconv/backend/cuda/own.py launches them; what they compute is
// written, once and in plain array code, in tinyconv/backend/reference.py and fused.py.
//
// Compiled once for each dtype: -DREAL=float, -DREAL=double or -DHALF.  Arrays hold `real`, sums are
// taken in `wide`.  All arrays are contiguous and have fewer than 2^31 elements: an int counts them.
//
// Two kinds of kernel:
//   EACH    one thread per output element, in any number of blocks (a grid-stride loop): it gathers
//           what belongs to its element.  No two threads write to one place, so there are no
//           atomics, and the sums come out the same, bit for bit, in every run.
//   block   one block per sum; its threads meet in shared memory (`block_sum`).
//
// Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel,
// S pixels of an image.  A window (oh, ow) reads pixel (oh*SH + kh*DH - top, ow*SW + kw*DW - left).

#ifdef HALF
struct real {  // 16 bits in memory; all arithmetic is float's
    unsigned short bits;
    real() = default;
    __device__ real(float value) { bits = half_bits(value); }
    __device__ operator float() const { return half_value(bits); }
    static __device__ unsigned short half_bits(float value);
    static __device__ float half_value(unsigned short bits);
};
#ifdef __CUDACC_RTC__  // so that no header has to be found
__device__ unsigned short real::half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ float real::half_value(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#endif
typedef float wide;
#else
typedef REAL real;
typedef REAL wide;
#endif

typedef long long int64;
#define KERNEL extern "C" __global__ void
#define EACH(i, count)                                                     \
    for (int i = blockIdx.x * blockDim.x + threadIdx.x, n_##i = (count); i < n_##i; \
         i += blockDim.x * gridDim.x)
#define INFINITE (1 / wide(0))
#define NOT_A_NUMBER (wide(0) / wide(0))

// ------------------------------------------------------------------------------------ windows

struct Window {  // own.py packs it; passed by value
    int N, C, H, W, OH, OW, KH, KW, SH, SW, top, left, DH, DW;
};

// The window whose tap at distance `tap` from its start is element `at` of a padded axis, or -1.
__device__ int window_with(int at, int tap, int stride, int windows) {
    int first = at - tap, window = first / stride;
    return first >= 0 && window * stride == first && window < windows ? window : -1;
}

// Sum over all windows (oh, ow) that read pixel (h, w), as their tap (kh, kw): every adjoint below.
template <class Term>
__device__ wide sum_of_readers(const Window& s, int h, int w, Term term) {
    wide sum = 0;
    for (int kh = 0; kh < s.KH; kh++) {
        int oh = window_with(h + s.top, kh * s.DH, s.SH, s.OH);
        if (oh < 0) continue;
        for (int kw = 0; kw < s.KW; kw++) {
            int ow = window_with(w + s.left, kw * s.DW, s.SW, s.OW);
            if (ow >= 0) sum += term(kh, kw, oh, ow);
        }
    }
    return sum;
}

// -------------------------------------------------------------------------------- convolution

// One pixel (n, oh, ow) of one channel c: its KH*KW elements of the columns.  Neighbouring threads
// have neighbouring pixels, so they write side by side.
__device__ void im2col_at(int i, const real* x, real* columns, const Window& s) {
    int pixels = s.N * s.OH * s.OW, c = i / pixels, pixel = i % pixels;
    int ow = pixel % s.OW, oh = pixel / s.OW % s.OH, n = pixel / s.OW / s.OH;
    const real* image = x + (n * s.C + c) * s.H * s.W;
    real* column = columns + c * s.KH * s.KW * pixels + pixel;
    for (int kh = 0; kh < s.KH; kh++)
        for (int kw = 0; kw < s.KW; kw++, column += pixels) {
            int h = oh * s.SH + kh * s.DH - s.top, w = ow * s.SW + kw * s.DW - s.left;
            bool inside = 0 <= h && h < s.H && 0 <= w && w < s.W;
            *column = inside ? image[h * s.W + w] : real(0);
        }
}

// y (B,A,S) from x (A,B,S): swaps the first two axes.
__device__ void swap_at(int i, const real* x, real* y, int A, int B, int S) {
    int p = i % S, a = i / S % A, b = i / S / A;
    y[i] = x[(a * B + b) * S + p];
}

// x (N,C,H,W) to columns (C*KH*KW, N*OH*OW): a convolution is then one matrix product.
KERNEL im2col(const real* x, real* columns, Window s) {
    EACH(i, s.C * s.N * s.OH * s.OW) im2col_at(i, x, columns, s);
}

// The same, and g (N,O,OH,OW) to rows (O, N*OH*OW): both factors of the weight's gradient.
KERNEL im2col_and_rows(const real* x, real* columns, const real* g, real* rows, int O, Window s) {
    int first = s.C * s.N * s.OH * s.OW;
    EACH(i, first + O * s.N * s.OH * s.OW)
        if (i < first) im2col_at(i, x, columns, s);
        else swap_at(i - first, g, rows, s.N, O, s.OH * s.OW);
}

KERNEL swap_rows(const real* x, real* y, int A, int B, int S) {
    EACH(i, A * B * S) swap_at(i, x, y, A, B, S);
}

// Rows (O, N*S) of a product to images (N,O,S), plus a bias (O,), or null.
KERNEL rows_to_images(const real* rows, const real* bias, real* y, int O, int N, int S) {
    EACH(i, O * N * S) {
        swap_at(i, rows, y, O, N, S);
        if (bias) y[i] = wide(y[i]) + wide(bias[i / S % O]);
    }
}

// The adjoint of im2col: columns summed back into x (N,C,H,W).
KERNEL col2im(const real* columns, real* x, Window s) {
    int pixels = s.N * s.OH * s.OW;
    EACH(i, s.N * s.C * s.H * s.W) {
        int w = i % s.W, h = i / s.W % s.H, c = i / s.W / s.H % s.C, n = i / s.W / s.H / s.C;
        x[i] = sum_of_readers(s, h, w, [&](int kh, int kw, int oh, int ow) {
            int row = (c * s.KH + kh) * s.KW + kw;
            return wide(columns[row * pixels + (n * s.OH + oh) * s.OW + ow]);
        });
    }
}

// ------------------------------------------------------------------------------------ pooling

// The maximum of every window, and its place h*W + w.  The first of equal values wins, NaN beats
// everything, and a window of -inf alone points to its first pixel, as in PyTorch.
KERNEL max_pool2d(const real* x, real* y, int64* places, Window s) {
    EACH(i, s.N * s.C * s.OH * s.OW) {
        int ow = i % s.OW, oh = i / s.OW % s.OH;
        const real* image = x + i / s.OW / s.OH * s.H * s.W;
        wide best = -INFINITE;
        int place = s.H * s.W;  // outside: of a window that reads padding alone
        for (int kh = 0; kh < s.KH; kh++)
            for (int kw = 0; kw < s.KW; kw++) {
                int h = oh * s.SH + kh * s.DH - s.top, w = ow * s.SW + kw * s.DW - s.left;
                if (h < 0 || h >= s.H || w < 0 || w >= s.W) continue;
                wide value = image[h * s.W + w];
                if (place == s.H * s.W) place = h * s.W + w;
                if (value > best || value != value) best = value, place = h * s.W + w;
            }
        y[i] = best;
        places[i] = place;
    }
}

// Its adjoint: each pixel adds up the gradients of the windows whose maximum it was.
KERNEL max_pool2d_input(const real* g, const int64* places, real* x, Window s) {
    EACH(i, s.N * s.C * s.H * s.W) {
        int pixel = i % (s.H * s.W), plane = i / (s.H * s.W) * s.OH * s.OW;
        x[i] = sum_of_readers(s, pixel / s.W, pixel % s.W, [&](int, int, int oh, int ow) {
            int window = plane + oh * s.OW + ow;
            return places[window] == pixel ? wide(g[window]) : wide(0);
        });
    }
}

// The values of `size` pixels at `picked` places, for each of the planes; NaN for a place outside.
KERNEL pool_gather(const real* x, const int64* places, real* y, int planes, int size, int picked) {
    EACH(i, planes * picked) {
        int64 place = places[i];
        bool inside = 0 <= place && place < size;
        y[i] = inside ? x[i / picked * size + place] : real(NOT_A_NUMBER);
    }
}

// Its adjoint where nothing is known about the places: one thread adds up a plane, in order.
// x is zero before.
KERNEL pool_scatter(
    const real* g, const int64* places, real* x, int planes, int size, int picked
) {
    EACH(plane, planes)
        for (int i = plane * picked; i < (plane + 1) * picked; i++) {
            bool inside = 0 <= places[i] && places[i] < size;
            real& sum = x[plane * size + (inside ? places[i] : 0)];
            sum = inside ? wide(sum) + wide(g[i]) : NOT_A_NUMBER;
        }
}

KERNEL window_sum(const real* x, real* y, Window s) {
    EACH(i, s.N * s.C * s.OH * s.OW) {
        int top = i / s.OW % s.OH * s.SH - s.top, left = i % s.OW * s.SW - s.left;
        const real* image = x + i / s.OW / s.OH * s.H * s.W;
        wide sum = 0;
        for (int h = max(top, 0); h < min(top + s.KH, s.H); h++)
            for (int w = max(left, 0); w < min(left + s.KW, s.W); w++)
                sum += wide(image[h * s.W + w]);
        y[i] = sum;
    }
}

KERNEL window_sum_input(const real* g, real* x, Window s) {
    EACH(i, s.N * s.C * s.H * s.W) {
        const real* windows = g + i / s.W / s.H * s.OH * s.OW;
        x[i] = sum_of_readers(s, i / s.W % s.H, i % s.W, [&](int, int, int oh, int ow) {
            return wide(windows[oh * s.OW + ow]);
        });
    }
}

// ----------------------------------------------------------------------------- sums of a block

#define THREADS 256  // the most that a block with shared memory has; a power of two

// The sum (or the maximum) of every thread's value, for every thread: a tree, so that the error
// grows with the logarithm of the threads.
__device__ wide block_reduce(wide value, bool maximum) {
    __shared__ wide shared[THREADS];
    int i = threadIdx.x;
    shared[i] = value;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();  // the halves are written
        if (i < half) {
            wide a = shared[i], b = shared[i + half];
            shared[i] = !maximum ? a + b : a > b ? a : b;
        }
    }
    __syncthreads();  // the result is written
    wide result = shared[0];
    __syncthreads();  // and read by all, before the next call overwrites it
    return result;
}

__device__ wide block_sum(wide value) { return block_reduce(value, false); }

// --------------------------------------------------------------------------------- batch norm

// Channel blockIdx.y of x (N,C,S) has N*S elements; block blockIdx.x has an equal part of them.
struct Part {
    int c, C, S, count, begin, end, index;
    __device__ Part(int N, int C, int S) : c(blockIdx.y), C(C), S(S), count(N * S) {
        int length = (count + gridDim.x - 1) / gridDim.x;
        begin = blockIdx.x * length;
        end = min(begin + length, count);
        index = c * gridDim.x + blockIdx.x;  // of the part, among all
    }
    __device__ int at(int j) const { return (j / S * C + c) * S + j % S; }
    __device__ bool writes_channel() const { return blockIdx.x == 0 && threadIdx.x == 0; }
};
#define EACH_OF(part, j) for (int j = part.begin + threadIdx.x; j < part.end; j += blockDim.x)
#define EACH_PART(k) for (int k = threadIdx.x; k < gridDim.x; k += blockDim.x)

// Mean and sum of squared deviations of each part.  From the deviations, in two passes, the second
// out of the cache: E[x^2] - E[x]^2 loses every digit where the mean is large.  So that a part's mean
// does not lose them either, it is the distance from the channel's first number.
KERNEL batch_statistics(const real* x, wide* means, wide* squares, int N, int C, int S) {
    Part part(N, C, S);
    wide origin = x[part.at(0)], sum = 0, square = 0;
    EACH_OF(part, j) sum += wide(x[part.at(j)]) - origin;
    wide mean = block_sum(sum) / (part.end - part.begin);
    EACH_OF(part, j) {
        wide d = wide(x[part.at(j)]) - origin - mean;
        square += d * d;
    }
    square = block_sum(square);
    if (threadIdx.x == 0) means[part.index] = mean, squares[part.index] = square;
}

// Every block merges its channel's parts (Chan, Golub and LeVeque 1979) and normalises its own:
// y = (x - mean) / sqrt(var + eps) * weight + bias, plus the residual, through the ReLU.
// weight, bias and residual may be null.
KERNEL batch_norm(
    const real* x, const real* weight, const real* bias, const real* residual, const wide* means,
    const wide* squares, real* y, real* mean, real* var, int N, int C, int S, wide eps, int relu
) {
    Part part(N, C, S);
    int length = (part.count + gridDim.x - 1) / gridDim.x, first = part.c * gridDim.x;
    wide origin = x[part.at(0)], sum = 0, square = 0;
    EACH_PART(k) sum += means[first + k] * min(length, part.count - k * length);
    wide m = block_sum(sum) / part.count;
    EACH_PART(k) {
        wide d = means[first + k] - m;
        square += squares[first + k] + d * d * min(length, part.count - k * length);
    }
    wide v = block_sum(square) / part.count;
    if (part.writes_channel()) mean[part.c] = origin + m, var[part.c] = v;
    wide scale = 1 / sqrt(v + eps);
    wide w = weight ? wide(weight[part.c]) : wide(1), b = bias ? wide(bias[part.c]) : wide(0);
    EACH_OF(part, j) {
        int i = part.at(j);
        wide value = (wide(x[i]) - origin - m) * scale * w + b;
        if (residual) value += wide(residual[i]);
        y[i] = relu && value < 0 ? wide(0) : value;
    }
}

// What arrives at the norm: g, or behind a ReLU only where its output y was positive.
__device__ wide through_relu(const real* g, const real* y, int i) {
    return y && y[i] <= wide(0) ? wide(0) : wide(g[i]);
}

// The sums of g and of g times the normalised x over each part.  y: null without a ReLU.
KERNEL batch_norm_sums(
    const real* g, const real* y, const real* x, const real* mean, const real* var, wide* sums,
    wide* products, int N, int C, int S, wide eps
) {
    Part part(N, C, S);
    wide m = mean[part.c], scale = 1 / sqrt(wide(var[part.c]) + eps), sum = 0, product = 0;
    EACH_OF(part, j) {
        int i = part.at(j);
        wide gradient = through_relu(g, y, i);
        sum += gradient;
        product += gradient * (wide(x[i]) - m) * scale;
    }
    sum = block_sum(sum), product = block_sum(product);
    if (threadIdx.x == 0) sums[part.index] = sum, products[part.index] = product;
}

// Every block adds up its channel's parts, and writes its own part of dx and of the residual's
// gradient (null where there is none).
KERNEL batch_norm_backward(
    const real* g, const real* y, const real* x, const real* weight, const real* mean,
    const real* var, const wide* sums, const wide* products, real* dx, real* dweight, real* dbias,
    real* dresidual, int N, int C, int S, wide eps
) {
    Part part(N, C, S);
    int first = part.c * gridDim.x;
    wide sum = 0, product = 0;
    EACH_PART(k) sum += sums[first + k], product += products[first + k];
    sum = block_sum(sum), product = block_sum(product);
    if (part.writes_channel()) dbias[part.c] = sum, dweight[part.c] = product;
    wide m = mean[part.c], scale = 1 / sqrt(wide(var[part.c]) + eps);
    wide outer = weight ? scale * wide(weight[part.c]) : scale;
    EACH_OF(part, j) {
        int i = part.at(j);
        wide gradient = through_relu(g, y, i), normal = (wide(x[i]) - m) * scale;
        dx[i] = (gradient - sum / part.count - normal * (product / part.count)) * outer;
        if (dresidual) dresidual[i] = gradient;
    }
}

// x (N,C,S) * scale (C,) + shift (C,), plus the residual or null, through the ReLU.
KERNEL affine(
    const real* x, const real* scale, const real* shift, const real* residual, real* y, int N,
    int C, int S, int relu
) {
    EACH(i, N * C * S) {
        int c = i / S % C;
        wide value = wide(x[i]) * wide(scale[c]) + wide(shift[c]);
        if (residual) value += wide(residual[i]);
        y[i] = relu && value < 0 ? wide(0) : value;
    }
}

KERNEL relu_backward(const real* g, const real* y, real* dx, int size) {
    EACH(i, size) dx[i] = through_relu(g, y, i);
}

// running <- (1 - momentum) running + momentum now; the variance of the batch times `unbias`.  One
// block, which counts this batch first: `seen` may be null.  averages: momentum is 1 / seen.
KERNEL move_statistics(
    real* mean, real* var, const real* mean_now, const real* var_now, int64* seen, int C,
    int averages, wide momentum, wide rest, wide unbias
) {
    int64 count = seen ? *seen + 1 : 1;
    if (averages) momentum = 1 / wide(count), rest = 1 - momentum;
    __syncthreads();  // all have read it
    if (seen && threadIdx.x == 0) *seen = count;
    EACH(c, C) {
        mean[c] = rest * wide(mean[c]) + momentum * wide(mean_now[c]);
        var[c] = rest * wide(var[c]) + momentum * (unbias * wide(var_now[c]));
    }
}

// -------------------------------------------------------------------------------------- loss

// What a row of logits costs: -log softmax at the target.  log softmax is x - largest - logsum.  An
// ignored row costs 0; a target that is no class, NaN.
__device__ wide row_loss(
    const real* row, int64 target, wide largest, wide logsum, int C, int64 ignored
) {
    if (target == ignored) return 0;
    return 0 <= target && target < C ? largest - wide(row[target]) + logsum : NOT_A_NUMBER;
}

// The sum of one block's losses; the mean over the rows that are not ignored, where their number is
// asked for: `rows` may be null.
__device__ void sum_of_rows(wide sum, wide counted, real* total, int64* rows) {
    sum = block_sum(sum), counted = block_sum(counted);
    if (threadIdx.x > 0) return;
    *total = rows ? sum / counted : sum;
    if (rows) *rows = counted;
}

// A block per row of x (R,C); the gradient reads the largest logits and the logarithms of the sums.
KERNEL cross_entropy(
    const real* x, const int64* targets, real* losses, real* largests, real* logsums, int C,
    int64 ignored
) {
    const real* row = x + blockIdx.x * C;
    wide largest = row[0], sum = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        if (wide(row[c]) > largest) largest = row[c];
    largest = block_reduce(largest, true);
    for (int c = threadIdx.x; c < C; c += blockDim.x) sum += exp(wide(row[c]) - largest);
    wide logsum = log(block_sum(sum));
    if (threadIdx.x > 0) return;
    losses[blockIdx.x] = row_loss(row, targets[blockIdx.x], largest, logsum, C, ignored);
    largests[blockIdx.x] = largest, logsums[blockIdx.x] = logsum;
}

// One block, with a thread per row: for few numbers, whose sum needs no second launch.
KERNEL cross_entropy_of_few(
    const real* x, const int64* targets, real* largests, real* logsums, real* total, int64* rows,
    int R, int C, int64 ignored
) {
    wide sum = 0, counted = 0;
    for (int r = threadIdx.x; r < R; r += blockDim.x) {
        const real* row = x + r * C;
        wide largest = row[0], exponentials = 0;
        for (int c = 1; c < C; c++)
            if (wide(row[c]) > largest) largest = row[c];
        for (int c = 0; c < C; c++) exponentials += exp(wide(row[c]) - largest);
        wide logsum = log(exponentials);
        largests[r] = largest, logsums[r] = logsum;
        sum += row_loss(row, targets[r], largest, logsum, C, ignored);
        counted += targets[r] != ignored;
    }
    sum_of_rows(sum, counted, total, rows);
}

// One block: the sum of the losses (R,), or their mean.
KERNEL sum_losses(
    const real* losses, const int64* targets, real* total, int64* rows, int R, int64 ignored
) {
    wide sum = 0, counted = 0;
    for (int r = threadIdx.x; r < R; r += blockDim.x) {
        sum += wide(losses[r]);
        counted += targets[r] != ignored;
    }
    sum_of_rows(sum, counted, total, rows);
}

// dx = g (softmax(x) - 1 at the target), divided by `rows` if that is not null.  g is one number, or
// (R,), one for `each` row.
KERNEL cross_entropy_backward(
    const real* g, const real* x, const int64* targets, const real* largests,
    const real* logsums, const int64* rows, real* dx, int R, int C, int64 ignored, int each
) {
    wide share = rows ? 1 / wide(*rows) : wide(1);
    EACH(i, R * C) {
        int r = i / C;
        int64 target = targets[r];
        wide slope = exp(wide(x[i]) - wide(largests[r]) - wide(logsums[r])) - (i % C == target);
        if (target < 0 || target >= C) slope = NOT_A_NUMBER;
        dx[i] = target == ignored ? wide(0) : wide(g[each ? r : 0]) * share * slope;
    }
}

// -------------------------------------------------------------------------------- optimizers

// One launch for up to 60 parameters: blockIdx.y says which.  By value, so that nothing has to be
// copied to the device first; 4 kB is what a kernel takes.
struct Parameter {
    real* p;
    const real* g;
    real *a, *b, *c;  // SGD: velocity;  Adam: means of g and g^2, largest mean of g^2; or null
    int64 size;
    double rate, scale;  // SGD: -, share;  Adam: step size, root
};
struct Parameters {
    Parameter each[60];
};

KERNEL sgd(Parameters all, wide lr, wide momentum, wide weight_decay, int nesterov) {
    const Parameter& t = all.each[blockIdx.y];
    wide share = t.scale;
    EACH(i, t.size) {
        wide p = t.p[i], g = wide(t.g[i]) + weight_decay * p;
        if (t.a) {
            wide velocity = momentum * wide(t.a[i]) + share * g;
            t.a[i] = velocity;
            g = nesterov ? g + momentum * velocity : velocity;
        }
        t.p[i] = p - lr * g;
    }
}

// rest1, rest2: 1 - beta, taken in double precision
KERNEL adam(
    Parameters all, wide beta1, wide rest1, wide beta2, wide rest2, wide eps, wide weight_decay,
    wide shrink
) {
    const Parameter& t = all.each[blockIdx.y];
    wide step = t.rate, root = t.scale;
    EACH(i, t.size) {
        wide p = wide(t.p[i]) * shrink, g = wide(t.g[i]) + weight_decay * p;
        wide m = beta1 * wide(t.a[i]) + rest1 * g, v = beta2 * wide(t.b[i]) + rest2 * (g * g);
        t.a[i] = m, t.b[i] = v;
        if (t.c) {
            wide largest = t.c[i];
            t.c[i] = v = v > largest || v != v ? v : largest;
        }
        t.p[i] = p - step * m / (sqrt(v) / root + eps);
    }
}

// -------------------------------------------------------------------------------------- data

// Grey images (count,S) at `indices` (B,): y (B,S) = (grey / 255 - mean) / std, in float32's own
// steps; an index outside gives NaN.
KERNEL gather_images(
    const unsigned char* images, const int64* indices, real* y, int B, int S, int64 count,
    wide mean, wide std
) {
    EACH(i, B * S) {
        int64 image = indices[i / S];
        bool inside = 0 <= image && image < count;
        y[i] = inside ? (images[image * S + i % S] / wide(255) - mean) / std : NOT_A_NUMBER;
    }
}
