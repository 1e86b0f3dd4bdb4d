// The MLP's nonlinearity, with the bias of the layer before it.
//
//   x ← x + bias        where a bias is given: x is what the backward reads, so it is written back
//   Gelu    y = x σ(2u),  u = √(2/π) (x + 0.044715 x³)      dx = dy (s + x s (1 − s) 2u′),  s = σ(2u)
//   Relu    y = max(x, 0)                                   dx = dy where x > 0
//   SwiGlu  x = (up | gate), y = up · gate σ(gate)          dup = dy gate σ,  dgate = dy up σ (1 + gate (1 − σ))
//
// y, dy (n, F); x, dx (n, F), for SwiGlu (n, 2F); bias (F), for SwiGlu (2F); all real. A thread takes eight columns of y.
// All launches: grid ⌈n ⌈F/8⌉ / 256⌉, block 256, shared 0.

#define GELU_LINEAR 1.5957691216057308f   // 2 √(2/π)
#define GELU_CUBIC 0.07135481282452432f   // and that times 0.044715

__device__ __forceinline__ float gelu(float x) { return x * sigmoid(x * fmaf(GELU_CUBIC * x, x, GELU_LINEAR)); }

__device__ __forceinline__ float gelu_slope(float x) {
    const float square = GELU_CUBIC * x * x;
    const float s = sigmoid(x * (square + GELU_LINEAR));
    return fmaf(x * s * (1.f - s), fmaf(square, 3.f, GELU_LINEAR), s);
}

// Not fmaxf: a NaN must not become 0.
__device__ __forceinline__ float relu(float x) { return x < 0.f ? 0.f : x; }
__device__ __forceinline__ float relu_slope(float x) { return x > 0.f ? 1.f : 0.f; }

// Eight columns of x, with the bias added and written back.
__device__ __forceinline__ void load_biased(float (&v)[8], real* x, const real* bias, int left, bool w) {
    load8(v, x, left, w);
    if (bias) {
        float b[8];
        load8(b, bias, left, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = rounded(v[i] + b[i], x);
        store8(x, v, left, w);
    }
}

template <class Function>
__device__ __forceinline__ void map_forward(real* y, real* x, const real* bias, int n, int F, Function f) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_row = (F + 7) / 8;
    const u32 row = at / per_row;
    const int c = 8 * (at % per_row);
    if (row >= n) return;
    const bool w = whole(F, y, x, bias);
    float v[8];
    load_biased(v, x + (u64)row * F + c, bias ? bias + c : bias, F - c, w);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = f(v[i]);
    store8(y + (u64)row * F + c, v, F - c, w);
}

template <class Slope>
__device__ __forceinline__ void map_backward(real* dx, const real* dy, const real* x, int n, int F, Slope slope) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_row = (F + 7) / 8;
    const u32 row = at / per_row;
    const int c = 8 * (at % per_row);
    if (row >= n) return;
    const bool w = whole(F, dx, dy, x);
    const u64 place = (u64)row * F + c;
    float d[8], v[8];
    load8(d, dy + place, F - c, w);
    load8(v, x + place, F - c, w);
#pragma unroll
    for (int i = 0; i < 8; i++) d[i] *= slope(v[i]);
    store8(dx + place, d, F - c, w);
}

extern "C" __global__ void __launch_bounds__(256) gelu_forward(real* y, real* x, const real* bias, int n, int F) {
    map_forward(y, x, bias, n, F, [](float x) { return gelu(x); });
}

extern "C" __global__ void __launch_bounds__(256) gelu_backward(real* dx, const real* dy, const real* x, int n, int F) {
    map_backward(dx, dy, x, n, F, [](float x) { return gelu_slope(x); });
}

extern "C" __global__ void __launch_bounds__(256) relu_forward(real* y, real* x, const real* bias, int n, int F) {
    map_forward(y, x, bias, n, F, [](float x) { return relu(x); });
}

extern "C" __global__ void __launch_bounds__(256) relu_backward(real* dx, const real* dy, const real* x, int n, int F) {
    map_backward(dx, dy, x, n, F, [](float x) { return relu_slope(x); });
}

extern "C" __global__ void __launch_bounds__(256) swiglu_forward(real* y, real* x, const real* bias, int n, int F) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_row = (F + 7) / 8;
    const u32 row = at / per_row;
    const int c = 8 * (at % per_row);
    if (row >= n) return;
    const bool w = whole(F, y, x, bias);
    real* up_at = x + (u64)row * 2 * F + c;
    float up[8], gate[8];
    load_biased(up, up_at, bias ? bias + c : bias, F - c, w);
    load_biased(gate, up_at + F, bias ? bias + F + c : bias, F - c, w);
#pragma unroll
    for (int i = 0; i < 8; i++) up[i] = up[i] * gate[i] * sigmoid(gate[i]);
    store8(y + (u64)row * F + c, up, F - c, w);
}

extern "C" __global__ void __launch_bounds__(256) swiglu_backward(real* dx, const real* dy, const real* x, int n, int F) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_row = (F + 7) / 8;
    const u32 row = at / per_row;
    const int c = 8 * (at % per_row);
    if (row >= n) return;
    const bool w = whole(F, dx, dy, x);
    const u64 place = (u64)row * 2 * F + c;
    float d[8], up[8], gate[8];
    load8(d, dy + (u64)row * F + c, F - c, w);
    load8(up, x + place, F - c, w);
    load8(gate, x + place + F, F - c, w);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float s = sigmoid(gate[i]);
        up[i] = d[i] * up[i] * s * fmaf(gate[i], 1.f - s, 1.f);   // dgate
        gate[i] = d[i] * gate[i] * s;                             // dup
    }
    store8(dx + place, gate, F - c, w);
    store8(dx + place + F, up, F - c, w);
}
